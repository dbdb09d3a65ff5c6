"""A process that stands still in a step ends itself; one that takes its time does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster.heartbeat import HUNG, TIMES, Heartbeat
from pipeline.stores import retries

ROOT = Path(__file__).resolve().parents[3]
WORK = """
import time
from pipeline.cluster.heartbeat import Heartbeat
beat = Heartbeat(floor=0.5, first=60)
beat.watch(lambda state: None)
with beat.restoring(1):
    for step in range(5):
        time.sleep(0.01)
        beat.step(step + 1, 10)
    {then}
{after}
"""


@pytest.mark.parametrize(
    ("then", "after", "status"),
    [
        ("time.sleep(60)", "", HUNG),
        ("beat.step(10, 10)", "time.sleep(1.5)", 0),  # nothing is restored meanwhile
    ],
)
def test_a_step_that_never_ends_ends_the_process(then: str, after: str, status: int) -> None:
    code = WORK.format(then=then, after=after)
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=50).returncode == status


def test_a_step_may_take_many_times_what_the_others_took() -> None:
    beat = Heartbeat(floor=0.0, first=3600.0)
    assert beat.longest == 3600.0
    with beat.restoring(4):
        for step in range(3):
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
    assert 0 < beat.longest < TIMES
