"""Commits become one file a shard, in which each key stands once."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.columns import OUTPUT_SCHEMA, ROWS_IN_GROUP, Row, open_writer
from pipeline.output.commits import commit, committed, remove_leftovers
from pipeline.output.compact import compact
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import metrics_of, with_errors
from pipeline.stores import storage


def row(key: str, status: str = "ok", nfe: int = 0) -> Row:
    return {"key": key, "source_shard": "s", "status": status, "nfe": nfe}


def compacted(output: OutputFolder) -> list[tuple[str, str, int]]:
    rows = metrics_of(output, "s").to_pylist()
    return [(found["key"], found["status"], found["nfe"]) for found in rows]


def test_commits_become_one_file_in_the_order_of_the_input(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    commit(output, "s", [row("c"), row("a")])
    commit(output, "s", [row("b"), row("d")])
    with pytest.raises(RuntimeError, match="shard s: 1 keys have no row, the first is 'e'"):
        compact(output, "s", list("abcde"))
    assert set(output.unfinished()) == {"s"} and output.restored() == []
    compact(output, "s", list("abcd"))
    assert [key for key, *_ in compacted(output)] == list("abcd")
    assert output.unfinished() == {} and output.restored() == ["s"]


def test_a_key_with_several_rows_keeps_an_ok_one(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    commit(output, "s", [row("a", "error", 1), row("b", "ok", 2), row("c", "error", 3)])
    compact(output, "s", list("abc"))
    commit(output, "s", [row("a", "ok", 4), row("b", "error", 5)])
    commit(output, "s", [row("c", "error", 6)])
    assert output.done_keys("s", count_errors=True) == set("abc")
    assert output.done_keys("s", count_errors=False) == set("ab")
    compact(output, "s", list("abc"))
    assert compacted(output) == [("a", "ok", 4), ("b", "ok", 2), ("c", "error", 6)]


def test_a_commit_done_again_overwrites_itself(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    for nfe in (1, 2):
        commit(output, "s", [row("a", nfe=nfe), row("b", nfe=nfe)])
    assert len(storage.find(str(tmp_path), ".parquet")) == 1
    assert set(committed(output, "s")) == {"a", "b"}


def test_leftovers_go_and_commits_stay_whatever_their_shard_is_called(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    for shard in ("night.try-2", "night"):
        commit(output, shard, [row("a")])
        storage.write_text(output.at(output.try_file(shard, "0" * 20, 1)), "{}")
    (tmp_path / "unfinished/night/.a.parquet.0.tmp").touch()
    assert remove_leftovers(output) == 3
    assert set(output.unfinished()) == {"night.try-2", "night"}
    assert len(storage.find(str(tmp_path))) == 2


def test_shards_with_errors_are_told_by_their_footers(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    for shard, statuses in {"a": ["ok"] * 40, "b": ["ok"] * 39 + ["error"], "c": ["error"]}.items():
        rows = [
            row(f"{shard}{number}", status) | {"source_shard": shard}
            for number, status in enumerate(statuses)
        ]
        with (
            storage.write_whole(output.at(output.restored_file(shard))) as file,
            open_writer(file) as writer,
        ):
            writer.write_table(pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA), ROWS_IN_GROUP)
    assert with_errors(output, ["a", "b", "c"]) == {"b", "c"}
    for shard in "ab":
        url = output.at(output.restored_file(shard))
        pq.write_table(pq.read_table(url), url, write_statistics=False)  # by another program
    assert with_errors(output, ["a", "b"]) == {"b"}
