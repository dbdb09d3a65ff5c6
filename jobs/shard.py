"""`p2l shard`: many image files, or a tar of them, to Parquet shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.console import BadRequest, Exit, errors, output, readable_errors, run_alone

if TYPE_CHECKING:
    from pipeline.rows import InputRow

OPTIONAL_COLUMNS = ("mask", "kernel", "prompt")


@readable_errors()
def shard(
    images: Annotated[
        list[str],
        typer.Argument(help="Folders, globs or tar files of images; any fsspec URL.", show_default=False),
    ],
    out: Annotated[str, typer.Argument(help="Folder for the shards; any fsspec URL.", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, help="Images to a shard.")] = 1000,
) -> None:
    """Pack images into Parquet shards with the columns `key` and `image`, the files' bytes as they are.

    The key is the path below the folder, or a tar member's name up to its first dot. Files that cannot be
    read are named and left out, and the exit status is 3.

    Example: p2l shard photos/ gs://bucket/shards --rows 1000
    """
    from pipeline import storage

    found = _read(images)
    unreadable = 0
    for number, batch in enumerate(iter(lambda: list(islice(found, rows)), [])):
        for row in (row for row in batch if row.error):
            errors.print(f"left out {row.key}: {row.error}", markup=False)
            unreadable += 1
        url = storage.join(out, f"{number:05d}.parquet")
        written = _write(url, [row for row in batch if not row.error])
        output.print(f"{url}: {written} images", soft_wrap=True)
    if unreadable:
        raise typer.Exit(Exit.ROWS_FAILED)


def _read(images: Sequence[str]) -> Iterator[InputRow]:
    """The rows of all images, after every key was seen to be unique."""
    from pipeline import sources

    counts = {}
    seen: dict[object, str] = {}
    for source in sources.list_shards(images):
        keys = sources.keys(source)
        for key in keys:
            if key in seen:
                raise BadRequest(f"key {key!r} is in {seen[key]} and in {source.name}; shard them apart")
            seen[key] = source.name
        counts[source] = len(keys)
    for source, count in counts.items():
        yield from sources.rows(source, [True] * count)


def _write(url: str, rows: Sequence[InputRow]) -> int:
    import pyarrow.parquet as pq

    from pipeline import storage
    from pipeline.rows import InputRow

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
    return len(table)


if __name__ == "__main__":
    run_alone(shard)
