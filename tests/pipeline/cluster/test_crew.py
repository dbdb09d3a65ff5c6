"""What a run knows of its workers between receipts, and how long it waits for them."""

from __future__ import annotations

import json
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler._private.autoscaler import AutoscalerSummary
from ray.autoscaler._private.node_provider_availability_tracker import (
    NodeAvailabilityRecord,
    NodeAvailabilitySummary,
    UnavailableNodeInformation,
)
from ray.experimental import internal_kv

from pipeline.cluster import board, crew, starting
from pipeline.cluster.crew import Crew
from pipeline.cluster.heartbeat import Heartbeat
from pipeline.observe.progress import Progress
from pipeline.output.folder import OutputFolder
from pipeline.output.progress_json import Start
from pipeline.run import watchdog
from pipeline.run.stop import Stop
from pipeline.run.watchdog import Watch
from pipeline.stores import retries

RUN = "tests.crew"


@pytest.fixture
def found(ray_cluster: None) -> Iterator[Crew]:
    yield Crew(RUN)
    board.clear(RUN)


def tell(name: str, sign: int, beat: Heartbeat) -> dict[str, Any]:
    board.put(RUN, crew.TOPIC, name, beat.state | {"sign": sign})
    return beat.state


def test_it_tells_who_is_at_work_at_which_step_and_who_waits(found: Crew) -> None:
    found.wanted = 5
    assert found.line() == "5 waiting for a machine" and not found.is_there
    loading, idle, slow, fast = (Heartbeat() for _ in range(4))
    for beat in (idle, slow, fast):
        beat.ready = True
    with slow.restoring(2), fast.restoring(2):
        slow.step(250, 1000)
        fast.step(500, 1000)
        for name, beat in {"l": loading, "i": idle, "s": slow, "f": fast}.items():
            tell(name, 0, beat)
        found.look()
    assert found.line() == "2 at work (step 250 of 1000), 1 loading, 1 waiting for a machine"
    assert found.under_way == pytest.approx(2 * 0.25 + 2 * 0.5) and found.is_there


def test_images_told_of_and_done_since_leave_no_time_below_none(found: Crew, tmp_path: Path) -> None:
    beat = Heartbeat()
    with beat.restoring(4):
        beat.step(9, 10)
        tell("w", 0, beat)
        found.look()
        progress = Progress(Start(OutputFolder(str(tmp_path))), 4, 0, micro_batch=4, crew=found)
        progress.done = 4  # their receipts came
        assert " 0:00:00 left" in progress.line()


def test_one_that_gives_no_sign_is_taken_for_lost(found: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    beat = Heartbeat()
    tell("w", 0, beat)
    found.look()
    monkeypatch.setattr(crew, "GONE", 0.0)
    found.look()
    assert not found.is_there and board.read(RUN, crew.TOPIC) == {}
    monkeypatch.setattr(crew, "GONE", 60.0)
    tell("w", 1, beat)
    found.look()
    assert found.is_there


def test_a_step_is_progress_and_a_sign_is_none(found: Crew) -> None:
    beat = Heartbeat()
    tell("w", 0, beat)
    found.look()
    before = found.moved
    tell("w", 1, beat)
    found.look()
    assert found.moved == before
    beat.step(1, 9)
    tell("w", 2, beat)
    found.look()
    assert found.moved > before


def test_a_worker_that_tries_its_store_again_is_waited_for(
    found: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "COUNTS", Counter())
    beat = Heartbeat()
    tell("w", 0, beat)
    found.look()
    before = found.moved
    retries.COUNTS["HTTP 503"] += 1
    tell("w", 1, beat)
    found.look()
    assert found.moved > before


def test_a_run_waits_by_what_its_commits_take_and_long_for_machines(
    found: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(watchdog, "time", types.SimpleNamespace(monotonic=lambda: now))
    ends = Watch("auto", Stop(), found)
    assert ends.limit == watchdog.LONGEST_WAIT, "there is no worker"
    tell("w", 0, Heartbeat())
    found.look()
    assert ends.limit == watchdog.FIRST_WAIT
    now = 1.0
    ends.progress()
    assert ends.limit == watchdog.LEAST_WAIT
    now += 3600.0
    ends.progress()
    assert ends.limit == 3 * 3600 + 900
    assert Watch(7.0, Stop(), found).limit == 7.0


@pytest.mark.parametrize(("commits", "hours"), [(0, 2.5), (20, 1.0)])
def test_a_wait_for_machines_is_no_worker_s_and_lengthens_no_limit(
    commits: int, hours: float, found: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that is moved: no machine for long, then one whose worker loads, then one that hangs."""
    now = 0.0
    clock = types.SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(watchdog, "time", clock)
    monkeypatch.setattr(crew, "time", clock)
    reasons: list[str] = []
    stop = Stop()
    monkeypatch.setattr(stop, "now", reasons.append)
    found.moved = now
    ends = Watch("auto", stop, found)
    monkeypatch.setattr(ends, "_is_there", lambda: True)
    beat = Heartbeat()

    def pass_by(seconds: float, name: str | None) -> None:
        nonlocal now
        until = now + seconds
        while now < until:
            now += 60.0
            if name is not None:
                tell(name, int(now), beat)
            found.look()
            ends._check()

    for number in range(commits):
        beat.step(number, commits)
        pass_by(300.0, "w")
        ends.progress()
    before = ends.limit
    pass_by(hours * 3600, None)
    pass_by(600.0, "its successor")
    assert reasons == [] and ends.limit == (before if commits else watchdog.FIRST_WAIT)
    pass_by(ends.limit, "its successor")
    assert "nothing was committed" in reasons[0]


def test_it_knows_why_no_worker_can_start(found: Crew) -> None:
    failed = {"failed": starting.FAILED_STARTS, "made": False, "error": "403"}
    board.put(RUN, starting.TOPIC, ray.get_runtime_context().get_node_id(), failed)
    found.look()
    assert found.hopeless == "403"
    with found.watched():
        pass
    assert board.read(RUN, starting.TOPIC) == {}, "the board is wiped in the end"


def test_it_says_why_machines_do_not_come(found: Crew) -> None:
    """As the autoscaler leaves it with Ray's head; this cluster has none, and is asked all the same."""
    exhausted = UnavailableNodeInformation(
        "ZONE_RESOURCE_POOL_EXHAUSTED", "no\n a2-highgpu-1g in us-central1-a"
    )
    record = NodeAvailabilityRecord("gpu", False, 0.0, exhausted)
    summary = AutoscalerSummary(
        active_nodes={},
        idle_nodes={},
        pending_nodes=[("10.0.0.7", "gpu", "setting-up")],
        pending_launches={"gpu": 2},
        failed_nodes=[],
        node_availability_summary=NodeAvailabilitySummary({"gpu": record}),
    )
    found.wanted = 4
    found.look()
    assert found.line() == "4 waiting for a machine"
    report = json.dumps({"autoscaler_report": asdict(summary)})
    internal_kv._internal_kv_put(DEBUG_AUTOSCALING_STATUS, report)
    try:
        found.look()
    finally:
        internal_kv._internal_kv_del(DEBUG_AUTOSCALING_STATUS)
    why = "3 starting; ZONE_RESOURCE_POOL_EXHAUSTED: no a2-highgpu-1g in us-central1-a"
    assert found.line() == f"4 waiting for a machine ({why})"
