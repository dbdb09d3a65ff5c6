"""At which step a worker is, and its end when it stands still: a kernel that never returns raises nothing."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from statistics import median
from typing import Any

from pipeline.stores import retries

log = logging.getLogger(__name__)

FLOOR = 300.0  # s that a step may take, whatever the others took
FIRST = 3600.0  # s that it may take while too few are known to judge by
TIMES = 20  # the median step
ENOUGH, RECENT = 3, 100  # steps to judge by: at least, and the latest
HUNG = 19  # the process's exit status
SIGN_SECONDS = 10.0  # between two signs of life


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
        self._images, self._finished, self._all_steps = 0, 0, 0
        self._counting = threading.Lock()
        self.done, self.steps = 0, 0
        self.ready = False  # for work: the model is loaded

    @contextmanager
    def restoring(self, images: int) -> Iterator[None]:
        """For as long as a restoration of so many images takes; they are finished with its last step."""
        self.done, self.steps, self._images, self._since = 0, 0, images, time.monotonic()
        try:
            yield
            if self.done == self.steps:
                self._finish(images)
        finally:
            self._since = None

    def committed(self, images: int) -> None:
        """So many of those that are finished are in the output."""
        self._finish(-images)

    def _finish(self, images: int) -> None:
        with self._counting:  # one thread restores, others commit
            self._finished += images

    def step(self, done: int, steps: int) -> None:
        """A step has ended; as `p2l_engine.restore` tells it."""
        now = time.monotonic()
        if self._since is not None:
            self._took.append(now - self._since)
        self.done, self.steps, self._since = done, steps, now
        self._all_steps += 1
        self._told(done, steps)

    def watch(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """From a thread tells the state now and then, and ends this process when a step takes too long.

        The exit status is then HUNG.
        """
        threading.Thread(target=self._watch, args=(tell,), daemon=True, name="heartbeat").start()

    @property
    def state(self) -> dict[str, Any]:
        """loading, idle or at work, and the step and steps of the images at work.

        images: worth of the steps that are done and not in the output. moves: all steps so far, and storage
        calls tried again: a store that does not answer is waited for.
        """
        at_work = self._since is not None
        state = "loading" if not self.ready else "at work" if at_work else "idle"
        part = self._images * self.done / self.steps if at_work and self.steps else 0.0
        moves = self._all_steps + retries.COUNTS.total()
        steps = {"done": self.done, "steps": self.steps, "moves": moves}
        return {"state": state, "images": self._finished + part} | steps

    @property
    def longest(self) -> float:
        """Seconds that the step under way may take."""
        known = len(self._took) >= ENOUGH
        return max(self._floor, TIMES * median(self._took)) if known else max(self._floor, self._first)

    def _watch(self, tell: Callable[[dict[str, Any]], None]) -> None:
        for sign in count():
            with suppress(Exception):  # of Ray's head, which may be away for a while
                tell(self.state | {"sign": sign})
            time.sleep(min(self._floor / 10, SIGN_SECONDS))
            since, longest = self._since, self.longest
            if since is not None and time.monotonic() - since > longest:
                log.error("step hangs", extra={"step": self.done + 1, "seconds": round(longest)})
                os._exit(HUNG)
