"""The actor without Ray: items that are begun, cut short and begun again, and what is in the output then."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Event, get_ident
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p2l_engine.restore import Restored
from pipeline.cluster import devices
from pipeline.input.keys import key_hash
from pipeline.input.rows import InputRow, SourceError
from pipeline.input.sources import Shard, list_shards
from pipeline.output import commits, lease
from pipeline.output.columns import Row
from pipeline.output.compact import compact
from pipeline.output.folder import OutputFolder
from pipeline.worker import actor, restore, tries
from pipeline.worker.actor import RestoreAndCommit
from pipeline.worker.items import Item, Work
from pipeline.worker.options import ActorOptions
from pipeline.worker.tries import Try
from tests.pipeline.small_jobs import job, png, write_parquet

ROOT = Path(__file__).resolve().parents[3]
KEYS = ["a", "b", "junk", "c", "d"]
HASHES = np.arange(10, 15, dtype=np.uint64).tobytes()  # of five rows
IMAGES = {key: b"junk" if key == "junk" else png(seed) for seed, key in enumerate(KEYS)}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "in" / "s.parquet", IMAGES)
    return tmp_path / "out"


@pytest.fixture
def held(output: Path) -> Iterator[str]:
    with lease.hold(OutputFolder(str(output)), take_over=False, lost=print, say=print) as lease_id:
        yield lease_id


def worker(output: Path, lease_id: str, *, retry_errors: bool = False) -> RestoreAndCommit:
    config = job(output.parent / "in", output)
    return RestoreAndCommit(config, ActorOptions("cpu", 1, 1), retry_errors, lease_id)


def item_of(shard: Shard, *rows: int) -> Item:
    return Item(shard, len(KEYS), rows, tuple(key_hash(KEYS[row]) for row in rows))


def block(output: Path, *rows: int) -> pa.Table:
    """An item of these rows of the shard, as Ray hands it to an actor."""
    (shard,) = list_shards([str(output.parent / "in")])
    return pa.Table.from_pylist([item_of(shard, *rows).packed()])


def committed_keys(output: Path) -> list[list[str]]:
    """The keys of each file of the unfinished shard, in order; nothing else is there."""
    files = (output / "unfinished" / "s").iterdir()
    return sorted(sorted(pq.read_table(file, columns=["key"])["key"].to_pylist()) for file in files)


def test_an_item_is_its_rows_alone_in_one_commit_and_leaves_no_other_trace(output: Path, held: str) -> None:
    receipts = worker(output, held)(block(output, 1, 2, 4)).to_pylist()
    statuses = {row["key"]: row["status"] for row in receipts}
    assert statuses == {"b": "ok", "junk": "error", "d": "ok"}
    assert {row["source_shard"] for row in receipts} == {"s"}
    assert committed_keys(output) == [["b", "d", "junk"]]


def test_a_slow_item_is_committed_on_the_way_and_goes_on_from_there(
    output: Path, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try, of another process, restores what no commit of the first one holds."""
    monkeypatch.setattr(actor, "COMMIT_SECONDS", 0.0)
    commit = commits.commit

    def killed_at_the_third(output: OutputFolder, shard: str, rows: list) -> None:
        if len(output.commits_of(shard)) == 2:
            raise KeyboardInterrupt
        commit(output, shard, rows)

    monkeypatch.setattr(commits, "commit", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        worker(output, held)(block(output, 0, 1, 2, 3))
    assert OutputFolder(str(output)).done_keys("s", count_errors=True) == {"a", "b"}
    monkeypatch.setattr(commits, "commit", commit)
    receipts = worker(output, held)(block(output, 0, 1, 2, 3)).to_pylist()
    assert sorted(row["key"] for row in receipts) == ["a", "b", "c", "junk"]
    assert committed_keys(output) == [["a"], ["b"], ["c"], ["junk"]]


@pytest.mark.parametrize(("retry_errors", "again"), [(False, []), (True, [["junk"]])])
def test_an_item_whose_receipts_were_lost_is_answered_from_the_output(
    output: Path, held: str, retry_errors: bool, again: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may be killed after the last commit; errors are tried again where that was asked for."""
    monkeypatch.setattr(tries, "end", lambda output, item, number: None)
    first = worker(output, held)(block(output, 0, 2)).to_pylist()
    monkeypatch.undo()
    second = worker(output, held, retry_errors=retry_errors)(block(output, 0, 2)).to_pylist()
    answers = [sorted((row["key"], row["status"], row["error"]) for row in rows) for rows in (first, second)]
    assert answers[0] == answers[1]
    assert committed_keys(output) == [["a", "junk"], *again]


def test_tries_are_counted_until_the_item_ends_and_are_swept_at_the_next_start(
    output: Path, held: str
) -> None:
    (shard,) = list_shards([str(output.parent / "in")])
    folder = OutputFolder(str(output))
    one, other = item_of(shard, 0, 1), item_of(shard, 2, 3)
    for number in range(1, 4):
        tries.note(folder, one, number, Try(f"node {number}"))
    assert tries.before(folder, one) == [Try("node 1"), Try("node 2"), Try("node 3")]
    assert tries.before(folder, other) == []
    tries.end(folder, one, 3)
    assert tries.before(folder, one) == []
    for item in (one, other):
        tries.note(folder, item, 1, Try("node 4"))
    assert commits.remove_leftovers(folder) == 2
    assert not list((output / "unfinished" / "s").iterdir())


def test_an_item_is_encoded_while_the_next_one_is_restored(
    output: Path, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_restored, met, calls = Event(), list[bool](), count()
    encode, solve = restore.encode_png, restore.restore

    def waiting(pixels: np.ndarray) -> bytes:
        met.append(second_restored.wait(120))
        return encode(pixels)

    def noting(*arguments: Any, **settings: Any) -> Restored:
        if next(calls):
            second_restored.set()
        return solve(*arguments, **settings)

    monkeypatch.setattr(restore, "encode_png", waiting)
    monkeypatch.setattr(restore, "restore", noting)
    one = worker(output, held)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(one, (block(output, 0), block(output, 1))))
    assert [receipts["key"].to_pylist() for receipts in found] == [["a"], ["b"]]
    assert all(met) and committed_keys(output) == [["a"], ["b"]]


def test_an_item_that_ended_a_process_is_begun_again_with_no_other_beside_it(
    output: Path, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is in work beside it would be blamed with it, again and again."""
    (shard,) = list_shards([str(output.parent / "in")])
    one, folder = worker(output, held), OutputFolder(str(output))
    tries.note(folder, item_of(shard, 0), 1, Try(one.worker.node))
    stream, beside, arrived = one.restorer.stream, Event(), Event()
    look, this_thread = lease.check, get_ident()

    def noting(output: OutputFolder, lease_id: str) -> None:
        look(output, lease_id)
        if get_ident() != this_thread:
            arrived.set()

    def with_another(rows: Iterable[InputRow]) -> Generator[list[Row]]:
        if not beside.is_set():
            beside.set()
            other.submit(one, block(output, 1))
            assert arrived.wait(120)
            deadline = time.monotonic() + 0.3
            while time.monotonic() < deadline:
                assert tries.before(folder, item_of(shard, 1)) == []
        return stream(rows)

    monkeypatch.setattr(lease, "check", noting)
    monkeypatch.setattr(one.restorer, "stream", with_another)
    with ThreadPoolExecutor(2) as other:
        one(block(output, 0))
    assert committed_keys(output) == [["a"], ["b"]]


def test_an_actor_of_a_driver_that_lost_its_lease_commits_nothing(output: Path) -> None:
    with lease.hold(OutputFolder(str(output)), take_over=False, lost=print, say=print) as held:
        first = worker(output, held)
    with (
        lease.hold(OutputFolder(str(output)), take_over=False, lost=print, say=print),
        pytest.raises(lease.LeaseError, match="taken over by another driver"),
    ):
        first(block(output, 0))
    assert not (output / "unfinished").exists()


def test_work_is_cut_into_items_of_what_is_wanted(output: Path) -> None:
    (shard,) = list_shards([str(output.parent / "in")])
    work = Work(shard, rows=5, wanted=bytes([0b10111000]), left=4, hashes=HASHES)
    assert [one.wanted for one in work.items(lambda taken: 3)] == [(0, 2, 3), (4,)]
    assert [one.hashes for one in work.items(lambda taken: 3)] == [(10, 12, 13), (14,)]
    assert [sum(one.flags) for one in work.items(lambda taken: 3)] == [3, 1]
    assert len({one.id for one in work.items(lambda taken: 1)}) == 4


def test_an_item_of_a_folder_has_only_its_own_files(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    (shard,) = list_shards([str(tmp_path)])
    first, last = Work(shard, rows=5, wanted=bytes([0b01011000]), left=3, hashes=HASHES).items(
        lambda taken: 2
    )
    assert (first.shard.files, first.wanted) == ((("1.png",), ("3.png",)), (0, 1))
    assert (first.hashes, last.hashes) == ((11, 13), (14,))
    assert (last.shard.files, last.flags) == ((("4.png",),), [True])
    assert Item.of(pa.Table.from_pylist([last.packed()])) == last


def test_an_item_that_ended_three_processes_is_done_row_by_row_and_such_a_row_is_an_error(
    output: Path, held: str
) -> None:
    (shard,) = list_shards([str(output.parent / "in")])
    three, row = item_of(shard, 0, 1, 3), item_of(shard, 1)
    first, folder = worker(output, held), OutputFolder(str(output))
    for number in range(1, 4):
        tries.note(folder, three, number, Try(first.worker.node))
        tries.note(folder, row, number, Try(first.worker.node, "CUDA error: assert" if number == 2 else ""))
    tries.note(folder, row, 4, Try("lost"))
    receipts = {found["key"]: found["error"] for found in first(block(output, 0, 1, 3)).to_pylist()}
    assert receipts == {"a": None, "b": "ended its process: 3 times; CUDA error: assert", "c": None}
    assert committed_keys(output) == [["a"], ["b"], ["c"]]


def test_a_row_that_ends_every_process_that_reads_it_is_an_error(output: Path, held: str) -> None:
    """Its picture is not read again only to say so."""
    code = f"""
import os
from pathlib import Path
from pipeline.input import parquet_rows
from tests.pipeline.worker.test_actor import block, worker
parquet_rows._row = lambda *arguments: os._exit(9)
output = Path({str(output)!r})
worker(output, {held!r})(block(output, 1))
"""
    ends = [subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode for _ in range(4)]
    assert ends == [9, 9, 9, 0]
    assert committed_keys(output) == [["b"]]


def test_rows_that_are_others_than_when_the_run_began_are_not_restored(output: Path, held: str) -> None:
    """Whether the shard is shorter, or of as many rows that are moved."""
    begun, first = block(output, 0, 1), worker(output, held)
    for keys in (KEYS[:3], [*KEYS[2:], "e", "f"]):
        write_parquet(output.parent / "in" / "s.parquet", {key: png(0) for key in keys})
        with pytest.raises(SourceError, match=r"has other rows than when the run began; give the same comm"):
            first(begun)
        assert OutputFolder(str(output)).unfinished() == {}


def test_processes_that_went_with_their_machines_are_no_fault_of_the_item_until_there_are_many() -> None:
    """An item whose memory takes its machine down with it would be begun on one after another for ever."""
    lost, here = Try("lost"), Try("here")
    assert not tries.is_deadly([lost] * (tries.ANYWHERE - 1), {"here"})
    assert tries.is_deadly([lost] * tries.ANYWHERE, {"here"})
    assert not tries.is_deadly([here, here, lost, lost], {"here"})
    assert tries.is_deadly([here, lost, here, here], {"here"})


def test_a_process_whose_device_failed_ends_and_leaves_word(output: Path, held: str) -> None:
    """Nothing of what it had in work is committed, and the reason stands beside it for the next try."""
    code = f"""
from pathlib import Path
from pipeline.worker import restore
from tests.pipeline.worker.test_actor import block, worker
output = Path({str(output)!r})
def fail(*arguments, **settings):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
restore.restore = fail
actor = worker(output, {held!r})
actor(block(output, 0, 1))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == devices.FAILED, ended.stderr
    (left,) = (output / "unfinished" / "s").iterdir()
    assert "illegal memory access" in json.loads(left.read_text())["cause"]


def test_a_shard_that_becomes_one_file_leaves_no_try_behind(output: Path, held: str) -> None:
    """A process that was cut off from its driver may note one after the new driver has swept them."""
    first = worker(output, held)
    first(block(output, 0, 1, 2, 3, 4))
    (shard,) = list_shards([str(output.parent / "in")])
    tries.note(OutputFolder(str(output)), item_of(shard, 0), 1, Try("elsewhere"))
    compact(OutputFolder(str(output)), "s", KEYS)
    assert not (output / "unfinished" / "s").exists()
    assert pq.read_table(output / "restored" / "s.parquet")["key"].to_pylist() == KEYS
