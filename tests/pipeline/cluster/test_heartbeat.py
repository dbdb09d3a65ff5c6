"""A process that stands still in a step ends itself; one that takes its time does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster import heartbeat
from pipeline.cluster.heartbeat import FLOOR, HUNG, TIMES, Heartbeat
from pipeline.stores import retries

ROOT = Path(__file__).resolve().parents[3]
HANGS = """
import time
from pipeline.cluster.heartbeat import Heartbeat
beat = Heartbeat(floor=0.5, first=1)
beat.watch(lambda state: None)
with beat.restoring(1):
    time.sleep(600)
"""


class Ended(BaseException):
    """Takes the place of the process's end."""


class Clock:
    """Time that passes where someone sleeps; until `end`, in seconds, where that ends the process."""

    def __init__(self) -> None:
        self.now, self.end = 0.0, float("inf")

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.end:
            raise Ended("never")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(heartbeat, "time", clock := Clock())
    monkeypatch.setattr(os, "_exit", end)
    return clock


def test_a_step_that_never_ends_ends_the_process() -> None:
    assert subprocess.run([sys.executable, "-c", HANGS], cwd=ROOT, timeout=240).returncode == HUNG


def steps(beat: Heartbeat, clock: Clock, seconds: float) -> None:
    """Five of ten."""
    for step in range(5):
        clock.now += seconds
        beat.step(step + 1, 10)


@pytest.mark.parametrize(("seconds", "longest"), [(1.0, FLOOR), (60.0, 60.0 * TIMES)])
def test_a_step_may_take_as_long_as_the_others_tell(clock: Clock, seconds: float, longest: float) -> None:
    beat = Heartbeat()
    with beat.restoring(1):
        steps(beat, clock, seconds)
        begun = clock.now
        with pytest.raises(Ended, match=f"^{HUNG}$"):
            beat._watch(lambda state: None)
    assert longest < clock.now - begun <= longest + heartbeat.SIGN_SECONDS


def test_time_between_two_restorations_is_no_step(clock: Clock) -> None:
    beat = Heartbeat()
    with beat.restoring(1):
        steps(beat, clock, 1.0)
    clock.end = clock.now + 100 * FLOOR
    with pytest.raises(Ended, match="^never$"):
        beat._watch(lambda state: None)


def test_what_a_worker_tells_follows_its_steps(clock: Clock) -> None:
    beat = Heartbeat(floor=0.0, first=3600.0)
    assert beat.longest == 3600.0
    with beat.restoring(4):
        for step in range(3):
            clock.now += 2.0
            beat.step(step + 1, 8)
        told = {"state": "loading", "images": 1.5, "done": 3, "steps": 8, "moves": 3 + retries.COUNTS.total()}
        assert beat.state == told
        beat.ready = True
        assert beat.state["state"] == "at work"
    assert (beat.state["state"], beat.state["images"]) == ("idle", 0), "it was cut short"
    with beat.restoring(4):
        beat.step(8, 8)
    assert beat.state["images"] == 4, "they wait for the rest of their item"
    beat.committed(4)
    assert beat.state["images"] == 0
    assert beat.longest == 2.0 * TIMES
