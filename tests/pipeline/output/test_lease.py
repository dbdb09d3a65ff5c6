"""One driver to an output: who is refused, who may take over, and what a driver does that lost its lease."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.output import lease
from pipeline.output.folder import OutputFolder
from pipeline.output.lease import Lease, LeaseError
from pipeline.run.run import RunError, run
from pipeline.stores import exclusive, retries, storage, storage_options
from pipeline.stores.exclusive import Changed, Stored
from tests.pipeline.small_jobs import job, write_shards
from tests.stores import Store, make_bucket, proxied


def other(**changed: object) -> Lease:
    """The lease of a living driver on another host."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(Lease("other", "far-away", "another boot", 1, now, now), **changed)  # type: ignore[arg-type]


def store(output: Path, holder: Lease) -> None:
    output.mkdir(exist_ok=True)
    (output / "next").write_text(json.dumps(asdict(holder)))
    (output / "next").replace(output / "lease.json")


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lease_is_there_while_it_is_held_and_gone_after(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        hold(tmp_path) as held,
    ):
        assert json.loads((tmp_path / "lease.json").read_text())["pid"] == os.getpid()
        lease.check(OutputFolder(str(tmp_path)), held)
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are renewed and looked at ten times a second."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.05)


def hold(output: str | Path, *, take_over: bool = False) -> AbstractContextManager[str]:
    return lease.hold(OutputFolder(str(output)), take_over=take_over, lost=print, say=print)


@pytest.mark.usefixtures("hasty")
def test_a_second_driver_is_refused_with_the_first_ones_host_and_start(tmp_path: Path) -> None:
    write_shards(tmp_path / "input", "a", rows=1)
    with hold(tmp_path / "output"):
        holder = json.loads((tmp_path / "output" / "lease.json").read_text())
        with pytest.raises(RunError) as refused:
            run(job(tmp_path / "input", tmp_path / "output"))
        for part in (holder["host"], holder["started"], "--take-over"):
            assert part in str(refused.value)
        names = {path.name for path in (tmp_path / "output").iterdir()}
        renewed_through = {name for name in names if name.endswith(storage.LEFTOVER_SUFFIX)}
        assert names - renewed_through == {"lease.json"}, "it was touched"


def test_a_process_of_this_machine_that_is_gone_is_followed_at_once(tmp_path: Path) -> None:
    store(tmp_path, other(machine=lease.this_machine(), pid=ended_process()))
    with hold(tmp_path) as held:
        lease.check(OutputFolder(str(tmp_path)), held)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("hours", [-3, 0, 3])
@pytest.mark.parametrize("text", [None, "{half"], ids=["a lease", "no lease"])
def test_only_a_lease_that_stands_still_is_taken_over_whatever_its_clock_says(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
    text: str | None,
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.5)
    when = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    store(tmp_path, other(renewed=when))
    if text is not None:
        (tmp_path / "lease.json").write_text(text)
    start = time.monotonic()
    with hold(tmp_path) as held:
        lease.check(OutputFolder(str(tmp_path)), held)
    assert time.monotonic() - start >= lease.STALE_SECONDS
    assert "taken over unless it changes" in capsys.readouterr().out


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("hours", [-3, 3])
def test_a_lease_that_is_renewed_is_left_alone_whatever_its_clock_says(tmp_path: Path, hours: int) -> None:
    """Of a driver on a machine whose clock is hours off, and a process that has an old one's number."""
    when = datetime.now(UTC) + timedelta(hours=hours)
    ended = threading.Event()

    def renew() -> None:
        for count in itertools.count():
            store(tmp_path, other(renewed=(when + timedelta(milliseconds=count)).isoformat()))
            if ended.wait(0.2):
                return

    renewing = threading.Thread(target=renew)
    renewing.start()
    while not (tmp_path / "lease.json").exists():
        time.sleep(0.01)
    try:
        with pytest.raises(LeaseError, match="far-away"), hold(tmp_path):
            pass
    finally:
        ended.set()
        renewing.join()


def test_a_driver_that_was_taken_over_is_told_and_leaves_the_new_lease_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    told: list[str] = []
    with lease.hold(OutputFolder(str(tmp_path)), take_over=False, lost=told.append, say=print) as first:
        before = json.loads((tmp_path / "lease.json").read_text())["renewed"]
        while json.loads((tmp_path / "lease.json").read_text())["renewed"] == before:
            time.sleep(0.05)  # it is renewed, by the second
        deadline = time.monotonic() + 120
        while not told and time.monotonic() < deadline:
            store(tmp_path, other())  # again, where a renewal came between
            time.sleep(0.05)
        with pytest.raises(LeaseError, match="far-away"):
            lease.check(OutputFolder(str(tmp_path)), first)
    assert len(told) == 1 and "far-away" in told[0]
    assert json.loads((tmp_path / "lease.json").read_text())["id"] == "other"


def test_take_over_ends_the_lease_of_a_driver_that_seems_alive(tmp_path: Path) -> None:
    store(tmp_path, other())
    with hold(tmp_path, take_over=True) as held:
        lease.check(OutputFolder(str(tmp_path)), held)


@pytest.fixture(params=["local", "s3", "gs"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An output on each store; behind a proxy that does what a real one does and its emulator does not."""
    if request.param == "local":
        yield str(tmp_path)
        return
    upstream: Store = request.getfixturevalue(f"{request.param}_store")
    with proxied(upstream) as proxy:
        storage_options.configure(proxy.store.options)
        yield f"{make_bucket(upstream, f'lease-{uuid.uuid4().hex[:8]}')}/run"
    storage_options.configure({})


def at_once(action: Callable[[int], str], count: int) -> list[str]:
    """What some threads did in the same moment."""
    barrier = threading.Barrier(count)

    def run(number: int) -> str:
        barrier.wait()
        return action(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("there", [False, True], ids=["a new file", "a file in place of one"])
def test_of_drivers_that_write_in_the_same_moment_one_is_first(output: str, there: bool) -> None:
    for turn in range(5):
        url = f"{output}/{turn}.json"
        if there:
            exclusive.write(url, "before", None)
        found = exclusive.read(url)
        assert (found is not None) == there

        def write(number: int, url: str = url, found: Stored | None = found) -> str:
            try:
                exclusive.write(url, f"{number}", found)
            except Changed:
                return "late"
            return "first"

        told = at_once(write, 4)
        assert sorted(told) == ["first", "late", "late", "late"]
        now = exclusive.read(url)
        assert now is not None and now.text == str(told.index("first"))
        with pytest.raises(Changed):
            exclusive.remove(url, Stored("before", "1"))
        exclusive.remove(url, now)
        assert exclusive.read(url) is None
        with pytest.raises(Changed):
            exclusive.write(url, "late", now)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("before", [False, True], ids=["no lease", "a dead driver's"])
def test_of_drivers_that_start_in_the_same_moment_one_gets_the_output(output: str, before: bool) -> None:
    if before:
        dead = other(machine=lease.this_machine(), pid=ended_process())
        exclusive.write(f"{output}/lease.json", json.dumps(asdict(dead)), None)
    decided = threading.Barrier(3)

    def start(_: int) -> str:
        try:
            with hold(output) as held:
                decided.wait(120)
                lease.check(OutputFolder(output), held)
                return held
        except LeaseError as refused:
            decided.wait(120)
            return str(refused)

    told = at_once(start, 3)
    assert sum("--take-over ends" in words for words in told) == 2
    assert exclusive.read(f"{output}/lease.json") is None


def test_a_look_at_the_lease_which_each_commit_takes_is_two_requests(s3_store: Store) -> None:
    with proxied(s3_store) as proxy:
        storage_options.configure(proxy.store.options)
        output = f"{make_bucket(s3_store, 'lease-look')}/run"
        with hold(output) as held:
            proxy.calls.clear()
            lease.check(OutputFolder(output), held)
            assert proxy.calls.total() == 2
    storage_options.configure({})


def test_a_write_whose_answer_was_lost_is_known_for_ones_own(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)
    with proxied(s3_store) as proxy:
        storage_options.configure(proxy.store.options)
        url = f"{make_bucket(s3_store, 'lease-lost')}/lease.json"
        proxy.planned.append(("write", "connection reset"))
        exclusive.write(url, "first", None)
        proxy.planned.append(("write", "connection reset"))
        exclusive.write(url, "second", exclusive.read(url))
        assert not proxy.planned
        assert (found := exclusive.read(url)) and found.text == "second"
    storage_options.configure({})


def test_a_server_that_knows_no_conditions_is_written_to_without(s3_store: Store) -> None:
    with proxied(s3_store) as proxy:
        storage_options.configure(proxy.store.options)
        output = f"{make_bucket(s3_store, 'lease-plain')}/run"
        proxy.planned.append(("write", "NotImplemented"))
        with hold(output) as held:
            lease.check(OutputFolder(output), held)
            proxy.planned.append(("delete", "NotImplemented"))
        assert not proxy.planned and exclusive.read(f"{output}/lease.json") is None
    storage_options.configure({})
