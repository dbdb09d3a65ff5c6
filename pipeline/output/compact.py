"""The step from many small commits to one file a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa

from pipeline.output.columns import OUTPUT_SCHEMA, ROWS_IN_GROUP, completed, open_writer
from pipeline.output.folder import UNFINISHED, OutputFolder
from pipeline.stores import storage


class _Place(NamedTuple):
    """Where a row stands: in the `row`-th place of a row group of a file."""

    key: str
    status: str
    file: str
    group: int
    row: int


def compact(output: OutputFolder, shard: str, keys: Sequence[str]) -> None:
    """Makes one file of a shard's rows in the order of `keys`, its own, then removes the commits.

    A key with several rows keeps one that is ok, if any is. May be stopped and begun again at any moment: the
    one file appears whole before the first commit goes. Raises RuntimeError when a key has no row.
    """
    places: dict[str, _Place] = {}
    for place in (place for file in output.files_of(shard) for place in _places(output, file)):
        if place.key not in places or places[place.key].status != "ok":
            places[place.key] = place
    missing = [key for key in keys if key not in places]
    if missing:
        raise RuntimeError(f"shard {shard}: {len(missing)} keys have no row, the first is {missing[0]!r}")
    whole = output.at(output.restored_file(shard))
    with storage.write_whole(whole) as file, open_writer(file) as writer:
        for start in range(0, len(keys), ROWS_IN_GROUP):
            wanted = [places[key] for key in keys[start : start + ROWS_IN_GROUP]]
            found = [_row_group(output, place.file, place.group).slice(place.row, 1) for place in wanted]
            writer.write_table(pa.concat_tables(found), ROWS_IN_GROUP)
    _row_group.cache_clear()
    commits = output.at(UNFINISHED, shard)
    for name in storage.find(commits):  # and tries of processes that were lost
        storage.remove(storage.join(commits, name))
    storage.remove_empty_folder(commits)


def _places(output: OutputFolder, file: str) -> Iterator[_Place]:
    with output.open(file) as parquet:
        for group in range(parquet.num_row_groups):
            cells = parquet.read_row_group(group, columns=["key", "status"]).to_pydict()
            for row, (key, status) in enumerate(zip(cells["key"], cells["status"], strict=True)):
                yield _Place(key, status, file, group, row)


@lru_cache(maxsize=4)  # commits hold neighbours, so rows in order come from few row groups at a time
def _row_group(output: OutputFolder, file: str, group: int) -> pa.Table:
    with output.open(file) as parquet:
        found = parquet.read_row_group(group, columns=OUTPUT_SCHEMA.names)
    return completed(found, OUTPUT_SCHEMA.names).cast(OUTPUT_SCHEMA)
