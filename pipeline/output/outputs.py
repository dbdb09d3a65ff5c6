"""Reading an output folder: its JSON files, its rows without images, and the images of a few chosen rows.

The rows live in `restored/<shard>.parquet` and, while a shard is unfinished, in `unfinished/<shard>/`. Rows
with images are read a few at a time, so an output of any size fits in memory. Files are named by their path
below the output, such as `restored/0001.parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import compress
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stores import storage

READERS = 8  # files opened at a time: an object store is slow to answer, and quick with many at once
J = TypeVar("J", dict[str, Any], list[Any])
ROWS_AT_A_TIME = 8  # rows with images in memory


def check(output: str) -> None:
    """Raises FileNotFoundError when there is no run at the URL `output`."""
    if not (storage.exists(storage.join(output, "run.json")) or restored(output) or unfinished(output)):
        raise FileNotFoundError(
            f"{output} holds no run: expected run.json and restored/ in it; give the `output` of a job"
        )


def read_json(output: str, name: str, kind: type[J] = dict) -> J:  # type: ignore[assignment]
    """A JSON file of the output, an object or a list, or an empty one where it is missing.

    Raises OSError for a file that is neither.
    """
    try:
        found = json.loads(storage.read_text(storage.join(output, name)))
    except FileNotFoundError:
        return kind()
    except ValueError as error:
        raise damaged(output, name, error) from error
    if not isinstance(found, kind):
        raise damaged(output, name, f"it holds {type(found).__name__}, not {kind.__name__}")
    return found


def damaged(output: str, name: str, what: object) -> OSError:
    """Of a JSON file that a run did not leave as it is."""
    lost = {
        "run.json": "put back a copy of it, or choose another output: this one's settings are not known",
        "usage.json": "put back a copy of it, or remove it: what earlier starts cost is then forgotten",
    }
    mend = lost.get(name, "remove it: the rows are not in it, and the next start writes another")
    return OSError(f"{storage.join(output, name)}: damaged, or written by another program ({what}); {mend}")


def restored(output: str) -> list[str]:
    """The files of complete shards."""
    return _parquet_files(output, "restored")


def unfinished(output: str) -> list[str]:
    """The commits of shards that are not complete."""
    return _parquet_files(output, "unfinished")


def _parquet_files(output: str, folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in storage.find(storage.join(output, folder), ".parquet")]


@contextmanager
def open_parquet(output: str, file: str) -> Iterator[pq.ParquetFile]:
    with storage.open_read(storage.join(output, file)) as stream:
        yield pq.ParquetFile(stream)


def scan(output: str, file: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of one file; columns that the file lacks are left out."""
    with open_parquet(output, file) as parquet:
        for group in range(parquet.num_row_groups):
            yield from _scan_group(parquet, group, columns)


def _scan_group(parquet: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    present = [name for name in columns if name in parquet.schema_arrow.names]
    for batch in parquet.iter_batches(ROWS_AT_A_TIME, row_groups=[group], columns=present):
        yield from batch.to_pylist()


def pick(
    parquet: pq.ParquetFile, places: Collection[int], columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows of one file at these places, in its order; only row groups that hold one are read."""
    first = 0
    for group in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(group).num_rows
        here = [first + row in places for row in range(count)]
        if any(here):
            yield from compress(_scan_group(parquet, group, columns), here)
        first += count


def rows(output: str, columns: Sequence[str]) -> pa.Table:
    """`key`, `status`, the named columns and the `file` of every row, each key once; absent columns are null.

    A key that stands in several files (a failed row done again, a commit not removed yet) counts once: its
    `ok` row before its `error` row, then that of a complete shard before that of a commit.
    """
    names = ["key", "status", *(name for name in columns if name not in ("key", "status"))]
    files = restored(output) + unfinished(output)
    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(lambda file: _columns(output, file, names), files))
    if not tables:
        return pa.table({name: pa.array([], pa.string()) for name in [*names, "file"]})
    return _each_key_once(pa.concat_tables(tables, promote_options="permissive"))


def _columns(output: str, file: str, names: Sequence[str]) -> pa.Table:
    with open_parquet(output, file) as parquet:
        table = parquet.read(columns=[name for name in names if name in parquet.schema_arrow.names])
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table)))
    where = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int32), pa.array([file]))
    return table.select(names).append_column("file", where)


def _each_key_once(table: pa.Table) -> pa.Table:
    keys = table["key"].combine_chunks().dictionary_encode().indices.to_numpy()
    failed = table["status"].to_numpy(zero_copy_only=False) != "ok"
    best_first = np.argsort(failed, kind="stable")  # files stand in order: complete shards, then commits
    _, first = np.unique(keys[best_first], return_index=True)
    return table if len(first) == len(table) else table.take(np.sort(best_first[first]))


def images(output: str, keys: Mapping[str, set[str]], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The named columns of the rows with `keys` (by file), by key; only row groups that hold one are read."""
    found: dict[str, dict[str, Any]] = {}
    for file, wanted in keys.items():
        with open_parquet(output, file) as parquet:
            for group in range(parquet.num_row_groups):
                if wanted.isdisjoint(parquet.read_row_group(group, columns=["key"])["key"].to_pylist()):
                    continue
                for row in _scan_group(parquet, group, ["key", *columns]):
                    if row["key"] in wanted:
                        found[row["key"]] = row
    return found
