"""At which step a worker is, and its end when it stands still: a kernel that never returns raises nothing."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

log = logging.getLogger(__name__)

FLOOR = 300.0  # s that a step may take, whatever the others took
FIRST = 3600.0  # s that it may take while too few are known to judge by
TIMES = 20  # the median step
ENOUGH, RECENT = 3, 100  # steps to judge by: at least, and the latest
HUNG = 19  # the process's exit status


class Heartbeat:
    """Takes note of the steps of restorations.

    told: called with (steps done, steps) after each. floor, first: see FLOOR and FIRST; shorter for tests.
    """

    def __init__(
        self,
        told: Callable[[int, int], None] = lambda done, steps: None,
        *,
        floor: float = FLOOR,
        first: float = FIRST,
    ) -> None:
        self._told, self._floor, self._first = told, floor, first
        self._took: deque[float] = deque(maxlen=RECENT)
        self._since: float | None = None  # the last step ended, or the restoration began; None between two
        self.done, self.steps = 0, 0

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """For as long as a restoration takes."""
        self.done, self.steps, self._since = 0, 0, time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def step(self, done: int, steps: int) -> None:
        """A step has ended; as `p2l_engine.restore` tells it."""
        now = time.monotonic()
        if self._since is not None:
            self._took.append(now - self._since)
        self.done, self.steps, self._since = done, steps, now
        self._told(done, steps)

    def watch(self) -> None:
        """Ends this process from a thread, with status HUNG, when a step takes too long."""
        threading.Thread(target=self._watch, daemon=True, name="heartbeat").start()

    @property
    def longest(self) -> float:
        """Seconds that the step under way may take."""
        known = len(self._took) >= ENOUGH
        return max(self._floor, TIMES * median(self._took)) if known else max(self._floor, self._first)

    def _watch(self) -> None:
        while True:
            time.sleep(min(self._floor / 10, 10.0))
            since, longest = self._since, self.longest
            if since is not None and time.monotonic() - since > longest:
                log.error("step hangs", extra={"step": self.done + 1, "seconds": round(longest)})
                os._exit(HUNG)
