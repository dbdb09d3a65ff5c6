"""A process that stands still in a step ends itself; one that takes its time does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.heartbeat import HUNG, TIMES, Heartbeat

ROOT = Path(__file__).resolve().parents[2]
WORK = """
import time
from pipeline.heartbeat import Heartbeat
beat = Heartbeat(floor=0.5, first=60)
beat.watch()
with beat.restoring():
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
    with beat.restoring():
        for step in range(3):
            beat.step(step + 1, 8)
    assert (beat.done, beat.steps) == (3, 8)
    assert 0 < beat.longest < TIMES
