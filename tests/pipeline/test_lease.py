"""One driver to an output: who is refused, who may take over, and what a driver does that lost its lease."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline import lease
from pipeline.lease import Lease, LeaseError
from pipeline.run import RunError, run
from tests.pipeline.small_jobs import job, write_shards


def other(**changed: object) -> Lease:
    """The lease of a living driver on another host."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(Lease("other", "far-away", "another boot", 1, now, now), **changed)  # type: ignore[arg-type]


def store(output: Path, holder: Lease) -> None:
    output.mkdir(exist_ok=True)
    (output / "lease.json").write_text(json.dumps(asdict(holder)))


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lease_is_there_while_it_is_held_and_gone_after(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lease.hold(str(tmp_path), take_over=False, lost=print) as held:
        assert json.loads((tmp_path / "lease.json").read_text())["pid"] == os.getpid()
        lease.check(str(tmp_path), held)
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_second_driver_is_refused_with_the_first_ones_host_and_start(tmp_path: Path) -> None:
    write_shards(tmp_path / "input", "a", rows=1)
    holder = other()
    store(tmp_path / "output", holder)
    with pytest.raises(RunError) as refused:
        run(job(tmp_path / "input", tmp_path / "output"))
    for part in ("far-away", holder.started, "--take-over"):
        assert part in str(refused.value)
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["lease.json"], "it touched the output"


@pytest.mark.parametrize(
    "holder",
    [
        other(renewed=(datetime.now(UTC) - timedelta(seconds=lease.STALE_SECONDS + 1)).isoformat()),
        other(machine=lease._machine(), pid=ended_process()),
    ],
    ids=["not renewed for a minute", "a process of this machine that is gone"],
)
def test_a_dead_drivers_lease_is_taken_over_at_once(tmp_path: Path, holder: Lease) -> None:
    store(tmp_path, holder)
    with lease.hold(str(tmp_path), take_over=False, lost=print) as held:
        lease.check(str(tmp_path), held)


def test_a_living_process_of_this_machine_keeps_its_lease(tmp_path: Path) -> None:
    store(tmp_path, other(machine=lease._machine(), pid=os.getpid()))
    with pytest.raises(LeaseError), lease.hold(str(tmp_path), take_over=False, lost=print):
        pass


def test_a_driver_that_was_taken_over_is_told_and_leaves_the_new_lease_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    told: list[str] = []
    with lease.hold(str(tmp_path), take_over=False, lost=told.append) as first:
        before = json.loads((tmp_path / "lease.json").read_text())["renewed"]
        while json.loads((tmp_path / "lease.json").read_text())["renewed"] == before:
            time.sleep(0.05)  # it is renewed, by the second
        deadline = time.monotonic() + 20
        while not told and time.monotonic() < deadline:
            store(tmp_path, other())  # again, where a renewal came between
            time.sleep(0.05)
        with pytest.raises(LeaseError, match="far-away"):
            lease.check(str(tmp_path), first)
    assert len(told) == 1 and "far-away" in told[0]
    assert json.loads((tmp_path / "lease.json").read_text())["id"] == "other"


def test_take_over_ends_the_lease_of_a_driver_that_seems_alive(tmp_path: Path) -> None:
    store(tmp_path, other())
    with lease.hold(str(tmp_path), take_over=True, lost=print) as held:
        lease.check(str(tmp_path), held)


def test_a_file_that_is_no_lease_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("{half")
    with lease.hold(str(tmp_path), take_over=False, lost=print) as held:
        lease.check(str(tmp_path), held)
