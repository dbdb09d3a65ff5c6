"""`p2l shard`: many image files, or tars and Parquet files of others, to Parquet shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.console import BadRequest, Exit, errors, output, readable_errors, run_alone, tell_left_out

if TYPE_CHECKING:
    from pipeline.input.rows import InputRow, Inventory
    from pipeline.input.sources import Shard

OPTIONAL_COLUMNS = ("mask", "kernel", "prompt")
READS_AT_ONCE = 16  # a store is slow to answer one request, and quick with many; each is held until its turn
SHARD_BYTES = 512 * 2**20  # a shard is held in memory until it is written


@readable_errors()
def shard(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Folders, globs, tar or Parquet files of images; any fsspec URL.", show_default=False
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(help="Folder for the shards, without any yet; any fsspec URL.", show_default=False),
    ],
    rows: Annotated[
        int, typer.Option(min=1, help="Images to a shard; fewer where they take 512 MiB.")
    ] = 1000,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Parquet column of a role: key=, image=, mask=, kernel= or prompt=NAME; may be repeated.",
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        str,
        typer.Option(help="key; row (shard's name and row's number); shard/key (shard's name and its key)."),
    ] = "key",
    every: Annotated[int, typer.Option(min=1, help="Only images 0, N, 2N, ... in their order.")] = 1,
    first: Annotated[int | None, typer.Option(min=1, help="Only so many, of those.")] = None,
) -> None:
    """Pack images into Parquet shards with the columns `key` and `image`, the files' bytes as they are.

    The key is the path below the folder, a tar member's path without its ending, or the column `key`. What
    cannot be read is named and left out, and the exit status is 3.

    Example: p2l shard photos/ gs://bucket/shards --rows 1000
    Example: p2l shard imagenet/val/ gs://bucket/imagenet-1k --every 10 --first 1000
    """
    from pipeline.config import load_config
    from pipeline.input import sources
    from pipeline.input.files import refuse_inside

    pairs = [pair.partition("=")[::2] for pair in columns or ()]
    job = load_config({"input": images, "output": out, "columns": dict(pairs), "keys": keys})
    refuse_inside(job.output, job.input)
    listing = sources.listing(job.input, job.reading)
    _refuse_stale(job.output)
    with ThreadPoolExecutor(READS_AT_ONCE) as readers:
        found = _inventories(listing.shards, readers)
        _check_keys(listing.shards, found)
        tell_left_out([*listing.left_out, *(one for inventory in found for one in inventory.left_out)])
        chosen = _chosen([len(inventory.keys) for inventory in found], every, first)
        written = _pack(_good(_read(listing.shards, chosen, readers)), rows, job.output)
    wanted = sum(map(sum, chosen))
    if lost := wanted - written:
        errors.print(f"{lost} of {wanted} images are in no shard: named above, each with its reason")
    if not written:
        raise typer.Exit(Exit.INCOMPLETE)
    if lost:
        raise typer.Exit(Exit.ROWS_FAILED)


def _pack(found: Iterator[InputRow], rows: int, out: str) -> int:
    """Writes the shards; how many images are in them."""
    from pipeline.stores import storage

    written = 0
    try:
        for number, batch in enumerate(_batches(found, rows)):
            url = storage.join(out, f"{number:05d}.parquet")
            _write(url, batch)
            output.print(f"{url}: {len(batch)} images", soft_wrap=True)
            written += len(batch)
    except BaseException as error:
        if written:
            errors.print(
                f"{out} holds the first {written} images only; remove them before the command is given again",
                soft_wrap=True,
            )
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(Exit.INCOMPLETE) from None
        raise
    return written


def _inventories(shards: Sequence[Shard], readers: ThreadPoolExecutor) -> list[Inventory]:
    """Keys and left-outs of all; raises one SourceError on all that cannot be read."""
    from pipeline.input import sources
    from pipeline.input.rows import SourceError

    found: list[Inventory] = []
    problems: list[str] = []
    for task in [readers.submit(sources.inventory, source) for source in shards]:
        try:
            found.append(task.result())
        except SourceError as error:
            problems += error.args
    if problems:
        raise SourceError(*problems)
    return found


def _refuse_stale(out: str) -> None:
    """Shards of before would be read together with the new ones."""
    from pipeline.messages import some
    from pipeline.stores import storage

    stale = storage.find(out, ".parquet")
    if stale:
        raise BadRequest(
            f"{out} holds {len(stale)} shards already ({some(stale, 3)}), which would be mixed with the new "
            "ones; remove them, or name another folder"
        )


def _check_keys(shards: Sequence[Shard], found: Sequence[Inventory]) -> None:
    from pipeline.input.keys import Place, bad_keys, repeated_keys

    problems: list[str] = []
    places: dict[str, list[Place]] = {}
    for source, inventory in zip(shards, found, strict=True):
        problems += bad_keys(source, inventory.keys)
        for row, key in enumerate(inventory.keys):
            if key:
                places.setdefault(str(key), []).append((source.name, row))
    problems += repeated_keys(places)
    if problems:
        raise BadRequest(*problems)


def _chosen(counts: Sequence[int], every: int, first: int | None) -> list[list[bool]]:
    """For each image of each source whether it is packed."""
    numbers = iter(range(sum(counts)))
    end = None if first is None else first * every
    return [
        [number % every == 0 and (end is None or number < end) for number in islice(numbers, count)]
        for count in counts
    ]


def _read(
    shards: Sequence[Shard], chosen: Sequence[Sequence[bool]], readers: ThreadPoolExecutor
) -> Iterator[InputRow]:
    """The chosen rows in order; files of a folder are read side by side."""
    from pipeline.input import sources
    from pipeline.worker.ahead import side_by_side

    for source, wanted in zip(shards, chosen, strict=True):
        if source.kind == "images":
            calls = (partial(_read_one, source, row, len(wanted)) for row, want in enumerate(wanted) if want)
            yield from side_by_side(calls, readers, READS_AT_ONCE)
        else:
            yield from sources.rows(source, wanted)


def _read_one(source: Shard, row: int, count: int) -> InputRow:
    from pipeline.input import sources

    (found,) = sources.rows(source, [number == row for number in range(count)])
    return found


def _good(found: Iterator[InputRow]) -> Iterator[InputRow]:
    """The rows that have an image; the others are named."""
    for row in found:
        error = row.error or (None if row.image else "no image: its bytes are empty")
        if error is None:
            yield row
        else:
            errors.print(f"left out {row.key}: {error}", soft_wrap=True)


def _batches(found: Iterator[InputRow], most: int) -> Iterator[list[InputRow]]:
    batch: list[InputRow] = []
    size = 0
    for row in found:
        batch.append(row)
        size += sum(len(cell) for cell in (row.image, row.mask, row.kernel) if cell)
        if len(batch) == most or size >= SHARD_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(url: str, rows: Sequence[InputRow]) -> None:
    import pyarrow.parquet as pq

    from pipeline.input.rows import InputRow
    from pipeline.stores import storage

    table = InputRow.table(rows)
    present = [name for name in OPTIONAL_COLUMNS if table[name].null_count < len(table)]
    with storage.write_whole(url) as file:
        pq.write_table(
            table.select(["key", "image", *present]),
            file,
            row_group_size=64,
            write_batch_size=1,  # so that a page ends after 1 MiB, however large the images are
            compression="none",
        )


if __name__ == "__main__":
    run_alone(shard)
