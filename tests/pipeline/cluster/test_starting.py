"""A worker's start: what is waited for, what is the job's own fault, and machines that fail twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipeline.cluster import board, nodes, starting
from pipeline.cluster.starting import COULD_NOT_START, FAILED_STARTS, hopeless, started

ROOT = Path(__file__).resolve().parents[3]
UNDER_WAY = {"failed": 0, "made": False, "error": None}  # what the board has of a first start
NEVER = """
from pipeline.cluster import starting
starting.WAITS = (0.01, 0.01)
starting.started({make}, {device!r}, "run", "node")
"""


def test_what_passes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "WAITS", (0.01,) * 3)
    failures = [ConnectionError("no route"), RuntimeError("CUDA driver initialization failed")]
    outcomes: list[Exception | str] = [*failures, "made"]

    def make() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert started(make, "cpu", "run", "node") == "made" and not outcomes


def test_the_jobs_own_fault_is_raised_at_once() -> None:
    with pytest.raises(ValueError, match="no such model"):
        started(lambda: (_ for _ in ()).throw(ValueError("no such model")), "cpu", "run", "node")


@pytest.mark.parametrize(("make", "device"), [("lambda: 1 / 0", "cpu"), ("object", "meta")])
def test_what_does_not_pass_ends_the_process_for_ray_to_start_another(make: str, device: str) -> None:
    """A raised error would end the actor for good; on `meta` nothing can be computed."""
    code = NEVER.format(make=make, device=device)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=240)
    assert ended.returncode == COULD_NOT_START, ended.stderr


@pytest.fixture
def run(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run of its own on the board."""
    monkeypatch.setattr(starting, "WAITS", (0.0,) * FAILED_STARTS)
    monkeypatch.setattr(os, "_exit", lambda status: None)
    yield "tests.starting"
    board.clear("tests.starting")


def test_a_run_none_of_whose_machines_can_start_a_worker_is_hopeless(run: str) -> None:
    def fail() -> None:
        raise OSError("gs://weights: 403")

    assert hopeless(run, {"one", "two", "three"}) is None
    started(fail, "cpu", run, "one")
    assert hopeless(run, {"one", "two", "three"}) == "gs://weights: 403"
    board.put(run, starting.TOPIC, "two", UNDER_WAY)
    assert hopeless(run, {"one", "two", "three"}) is None, "another machine is still at it"
    started(fail, "cpu", run, "two")
    assert hopeless(run, {"one", "two", "three"}) == "gs://weights: 403"
    board.put(run, starting.TOPIC, "lost", UNDER_WAY)
    assert hopeless(run, {"one", "two", "three"}) == "gs://weights: 403", "a lost machine is not waited for"
    started(object, "cpu", run, "three")
    started(fail, "cpu", run, "three")
    assert hopeless(run, {"one", "two", "three"}) is None, "it was possible once"


def test_a_machine_that_fails_twice_between_two_commits_gets_no_more_work(run: str) -> None:
    environment = os.environ | {"RAY_health_check_period_ms": "1000"}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=1"]
    address = ray.get_runtime_context().gcs_address
    command += [f"--address={address}", '--resources={"broken": 1}', "--object-store-memory=80000000"]
    node = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while "broken" not in ray.cluster_resources() and time.monotonic() < deadline:
            time.sleep(0.2)
        (bad,) = (entry["NodeID"] for entry in nodes.alive() if "broken" in entry["Resources"])
        for what in ("item 1", "item 1"):
            nodes.blame(run, bad, what, "Xid 79")
        nodes.absolve(run, bad)
        nodes.blame(run, bad, "item 2", "Xid 79")
        assert "broken" in ray.cluster_resources(), "drained after one fault, or the same one twice"
        nodes.blame(run, bad, "item 3", "Xid 79")
        assert list(board.read(run, nodes.DRAINED)) == [bad]
        while any(entry["NodeID"] == bad for entry in nodes.alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not any(entry["NodeID"] == bad for entry in nodes.alive()), "it is idle, and stays"
    finally:
        node.kill()
        node.wait()


def test_where_many_machines_fail_alike_they_are_not_drained(run: str) -> None:
    board.put(run, nodes.DRAINED, "another", "Xid 79")
    for what in ("item 1", "item 2"):
        nodes.blame(run, "a machine", what, "Xid 79")
    assert list(board.read(run, nodes.DRAINED)) == ["another"]


def test_the_head_is_never_drained(run: str) -> None:
    head = ray.get_runtime_context().get_node_id()
    for what in ("item 1", "item 2", "item 3"):
        nodes.blame(run, head, what, "Xid 79")
    assert head in [entry["NodeID"] for entry in nodes.alive()]
