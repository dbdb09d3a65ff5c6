"""Reading an output's rows: all of them without images, or a few chosen ones with theirs.

Rows with images are read a few at a time, so an output of any size fits in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, compress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.columns import METRICS_SCHEMA
from pipeline.output.folder import OutputFolder

READERS = 8  # files opened at a time: an object store is slow to answer, and quick with many at once
ROWS_AT_A_TIME = 8  # rows with images in memory


def all_rows(output: OutputFolder, columns: Sequence[str]) -> pa.Table:
    """`key`, `status`, the named columns and the `file` of every row, each key once; absent columns are null.

    A key that stands in several files (a failed row done again, a commit not removed yet) counts once: its
    `ok` row before its `error` row, then that of a complete shard before that of a commit.
    """
    names = ["key", "status", *(name for name in columns if name not in ("key", "status"))]
    whole = [output.restored_file(shard) for shard in output.restored()]
    files = [*whole, *chain.from_iterable(output.unfinished().values())]
    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(lambda file: _with_file(output.read(file, names), file), files))
    if not tables:
        return pa.table({name: pa.array([], pa.string()) for name in [*names, "file"]})
    return _each_key_once(pa.concat_tables(tables, promote_options="permissive"))


def _with_file(table: pa.Table, file: str) -> pa.Table:
    where = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int32), pa.array([file]))
    return table.append_column("file", where)


def _each_key_once(table: pa.Table) -> pa.Table:
    keys = table["key"].combine_chunks().dictionary_encode().indices.to_numpy()
    failed = table["status"].to_numpy(zero_copy_only=False) != "ok"
    best_first = np.argsort(failed, kind="stable")  # files stand in order: complete shards, then commits
    _, first = np.unique(keys[best_first], return_index=True)
    return table if len(first) == len(table) else table.take(np.sort(best_first[first]))


def metrics_of(output: OutputFolder, shard: str) -> pa.Table:
    """The rows of a whole shard without images."""
    return output.read(output.restored_file(shard), METRICS_SCHEMA.names).cast(METRICS_SCHEMA)


def keys_of(output: OutputFolder, shard: str) -> list[str]:
    """The keys of a whole shard, in order."""
    found: list[str] = output.read(output.restored_file(shard), ("key",))["key"].to_pylist()
    return found


def with_errors(output: OutputFolder, shards: Sequence[str]) -> set[str]:
    """Those of some whole shards that have an error row."""
    with ThreadPoolExecutor(READERS) as pool:
        failed = pool.map(lambda shard: _has_errors(output, output.restored_file(shard)), shards)
        return {shard for shard, has in zip(shards, failed, strict=True) if has}


def _has_errors(output: OutputFolder, file: str) -> bool:
    """By the least status of each row group, as its footer has it: `error` comes before `ok`."""
    with output.open(file) as parquet:
        footer = parquet.metadata
    place = footer.schema.names.index("status")
    groups = [footer.row_group(group).column(place).statistics for group in range(footer.num_row_groups)]
    if all(group is not None and group.has_min_max for group in groups):
        return any(group.min == "error" for group in groups)
    return "error" in output.read(file, ("status",))["status"].to_pylist()


def pick(
    parquet: pq.ParquetFile, places: Collection[int], columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows of one file at these places, in its order; only row groups that hold one are read."""
    first = 0
    for group in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(group).num_rows
        here = [first + row in places for row in range(count)]
        if any(here):
            yield from compress(group_rows(parquet, group, columns), here)
        first += count


def images(
    output: OutputFolder, keys: Mapping[str, set[str]], columns: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The named columns of the rows with `keys` (by file), by key; only row groups that hold one are read."""
    found: dict[str, dict[str, Any]] = {}
    for file, wanted in keys.items():
        with output.open(file) as parquet:
            for group in range(parquet.num_row_groups):
                if wanted.isdisjoint(parquet.read_row_group(group, columns=["key"])["key"].to_pylist()):
                    continue
                for row in group_rows(parquet, group, ["key", *columns]):
                    if row["key"] in wanted:
                        found[row["key"]] = row
    return found


def group_rows(parquet: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A few rows at a time; columns that the file lacks are left out."""
    for batch in parquet.iter_batches(ROWS_AT_A_TIME, row_groups=[group], columns=list(columns)):
        yield from batch.to_pylist()
