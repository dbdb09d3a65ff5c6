"""The micro-batch: as few images at a time as are nearly as fast as any number, for a kill loses them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

NEARLY = 0.95  # of the best rate
WARM, MEASURED = 1, 3  # steps of each size: those before the clock, and those on it


class Enough(Exception):
    """The steps of one size were measured."""


class Clock:
    """Times the first steps of a restoration. wait: until the device has done what it was given."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self._wait = wait
        self._begun = 0.0
        self.seconds: float | None = None  # of a step, once known

    def step(self, done: int, steps: int) -> None:
        """Told after each step; raises Enough after the last one that counts."""
        if done == WARM:
            self._wait()
            self._begun = time.perf_counter()
        elif done == min(WARM + MEASURED, steps):
            self._wait()
            self.seconds = (time.perf_counter() - self._begun) / (done - WARM)
            raise Enough


def smallest_fast(rates: Mapping[int, float]) -> int:
    """The smallest number of images whose rate, images a second, is nearly the best."""
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= NEARLY * best)
