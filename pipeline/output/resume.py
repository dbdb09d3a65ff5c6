"""What is done, read from the output itself, and the step from many small commits to one file a shard.

restored/<shard>.parquet     a whole shard, each key once, in the input's order
unfinished/<shard>/*.parquet commits of a shard that is not whole yet, or rows done again by --retry-errors
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output import outputs
from pipeline.output.commits import (
    METRICS_SCHEMA,
    OUTPUT_SCHEMA,
    ROWS_IN_GROUP,
    TRY,
    open_writer,
    restored_url,
    stored_columns,
    unfinished_url,
    with_later_columns,
)
from pipeline.stores import storage


def restored_shards(output: str) -> set[str]:
    """Names of the shards that are whole."""
    return {
        name.removesuffix(".parquet") for name in storage.find(storage.join(output, "restored"), ".parquet")
    }


def unfinished_shards(output: str) -> set[str]:
    """Names of the shards that have commits not yet made one file."""
    return {name.split("/")[0] for name in storage.find(storage.join(output, "unfinished"), ".parquet")}


def remove_leftovers(output: str) -> int:
    """Removes what a killed process left: files that it began to write, and tries; how many there were."""
    names = [name for name in storage.find(output, storage.LEFTOVER_SUFFIX) if _is_own(name)]
    names += [
        f"unfinished/{name}" for name in storage.find(storage.join(output, "unfinished")) if TRY in name
    ]
    for name in names:
        storage.remove(storage.join(output, name))
    return len(names)


def _is_own(leftover: str) -> bool:
    """Whether it is of this output; other folders in it may hold the input, or another run."""
    folder, _, name = leftover.rpartition("/")
    return name.startswith(".") and folder.split("/")[0] in ("", "restored", "unfinished")


def files_of(output: str, shard: str) -> list[str]:
    """Every file that holds rows of a shard: the whole one first, if there is one, then its commits."""
    folder = unfinished_url(output, shard)
    commits = [storage.join(folder, name) for name in storage.find(folder, ".parquet")]
    whole = restored_url(output, shard)
    return [whole, *commits] if storage.exists(whole) else commits


def done_keys(output: str, shard: str, *, count_errors: bool) -> set[str]:
    """Keys of a shard that have a row; those with an error row only where `count_errors`."""
    return {
        row.key
        for url in files_of(output, shard)
        for row in _index(url)
        if count_errors or row.status == "ok"
    }


def committed(output: str, shard: str) -> dict[str, dict[str, Any]]:
    """Key, status and error of the rows in a shard's commits, by key; of two, that which is ok."""
    rows: dict[str, dict[str, Any]] = {}
    folder = unfinished_url(output, shard)
    for name in storage.find(folder, ".parquet"):
        with storage.open_read(storage.join(folder, name)) as file:
            for row in pq.ParquetFile(file).read(columns=["key", "status", "error"]).to_pylist():
                if row["key"] not in rows or row["status"] == "ok":
                    rows[row["key"]] = row
    return rows


def keys_of(output: str, shard: str) -> list[str]:
    """The keys of a whole shard, in order."""
    return [row.key for row in _index(restored_url(output, shard))]


def with_errors(output: str, shards: Sequence[str]) -> set[str]:
    """Those of some whole shards that have an error row."""
    with ThreadPoolExecutor(outputs.READERS) as pool:
        failed = pool.map(lambda shard: _has_errors(restored_url(output, shard)), shards)
        return {shard for shard, has in zip(shards, failed, strict=True) if has}


def _has_errors(url: str) -> bool:
    """By the least status of each row group, as its footer has it: `error` comes before `ok`."""
    with storage.open_read(url) as file:
        footer = pq.ParquetFile(file).metadata
    place = footer.schema.names.index("status")
    groups = [footer.row_group(group).column(place).statistics for group in range(footer.num_row_groups)]
    if all(group is not None and group.has_min_max for group in groups):
        return any(group.min == "error" for group in groups)
    return any(row.status == "error" for row in _index(url))


class _Place(NamedTuple):
    """Where a row stands: in the `row`-th place of a row group of a file."""

    key: str
    status: str
    url: str
    group: int
    row: int


def _index(url: str) -> Iterator[_Place]:
    with storage.open_read(url) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            cells = parquet.read_row_group(group, columns=["key", "status"]).to_pydict()
            for row, (key, status) in enumerate(zip(cells["key"], cells["status"], strict=True)):
                yield _Place(key, status, url, group, row)


def compact(output: str, shard: str, keys: Sequence[str]) -> None:
    """Makes one file of a shard's rows in the order of `keys`, its own, then removes the commits.

    A key with several rows keeps one that is ok, if any is. May be stopped and begun again at any moment: the
    one file appears whole before the first commit goes. Raises RuntimeError when a key has no row.
    """
    files = files_of(output, shard)
    places: dict[str, _Place] = {}
    for place in (place for url in files for place in _index(url)):
        if place.key not in places or places[place.key].status != "ok":
            places[place.key] = place
    missing = [key for key in keys if key not in places]
    if missing:
        raise RuntimeError(f"shard {shard}: {len(missing)} keys have no row, the first is {missing[0]!r}")
    whole = restored_url(output, shard)
    with storage.write_whole(whole) as file, open_writer(file) as writer:
        for start in range(0, len(keys), ROWS_IN_GROUP):
            wanted = [places[key] for key in keys[start : start + ROWS_IN_GROUP]]
            found = [_row_group(place.url, place.group).slice(place.row, 1) for place in wanted]
            writer.write_table(pa.concat_tables(found), ROWS_IN_GROUP)
    _row_group.cache_clear()
    folder = unfinished_url(output, shard)
    for name in storage.find(folder):  # commits, and tries of processes that were lost
        storage.remove(storage.join(folder, name))
    storage.remove_empty_folder(folder)


@lru_cache(maxsize=4)  # commits hold neighbours, so rows in order come from few row groups at a time
def _row_group(url: str, group: int) -> pa.Table:
    with storage.open_read(url) as file:
        parquet = pq.ParquetFile(file)
        found = parquet.read_row_group(group, columns=stored_columns(parquet, OUTPUT_SCHEMA))
    return with_later_columns(found, OUTPUT_SCHEMA)


def metrics_of(output: str, shard: str) -> pa.Table:
    """The rows of a whole shard without images."""
    with storage.open_read(restored_url(output, shard)) as file:
        parquet = pq.ParquetFile(file)
        found = parquet.read(columns=stored_columns(parquet, METRICS_SCHEMA))
    return with_later_columns(found, METRICS_SCHEMA)
