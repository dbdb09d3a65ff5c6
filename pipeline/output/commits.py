"""Commits: small Parquet files of finished rows that appear whole or not at all.

What a kill loses is what an actor has restored since its last commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.output.columns import OUTPUT_SCHEMA, ROWS_IN_GROUP, Row, open_writer
from pipeline.output.folder import CAPTIONS, RESTORED, TRY, UNFINISHED, OutputFolder
from pipeline.stores import retries, storage


def commit(output: OutputFolder, shard: str, rows: Sequence[Row]) -> None:
    """Writes finished rows of one shard to unfinished/<shard>/ as one file; patiently, for they cost much."""
    url = output.at(output.commit_file(shard, [row["key"] for row in rows]))
    with retries.patient(), storage.write_whole(url) as file, open_writer(file) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA), ROWS_IN_GROUP)


def committed(output: OutputFolder, shard: str) -> dict[str, dict[str, Any]]:
    """Key, status and error of the rows in a shard's commits, by key; of two, that which is ok."""
    rows: dict[str, dict[str, Any]] = {}
    for file in output.commits_of(shard):
        for row in output.read(file, ("key", "status", "error")).to_pylist():
            if row["key"] not in rows or row["status"] == "ok":
                rows[row["key"]] = row
    return rows


def remove_leftovers(output: OutputFolder) -> int:
    """Removes what a killed process left: files that it began to write, and tries; how many there were."""
    names = [name for name in storage.find(output.url, storage.LEFTOVER_SUFFIX) if _is_own(name)]
    unfinished = storage.find(output.at(UNFINISHED))
    # Of its last part: a shard's own name may hold anything.
    names += [f"{UNFINISHED}/{name}" for name in unfinished if TRY in name.rpartition("/")[2]]
    for name in names:
        storage.remove(output.at(name))
    return len(names)


def _is_own(leftover: str) -> bool:
    """Whether it is of this output; other folders in it may hold the input, or another run."""
    folder, _, name = leftover.rpartition("/")
    return name.startswith(".") and folder.split("/")[0] in ("", CAPTIONS, RESTORED, UNFINISHED)
