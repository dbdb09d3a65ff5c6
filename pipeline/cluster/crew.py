"""What the workers of a run are at between receipts, which at an hour an image is most of the time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from statistics import median_low
from typing import Any, Self

import ray

from pipeline.cluster import autoscaler, board, nodes, starting
from pipeline.threads import every

TOPIC = "workers"
LOOK_SECONDS = 5.0
GONE = 60.0  # s without a sign after which a worker is taken for lost; it gives one every ten


class Crew:
    """The workers as they last told of themselves on the board, which a thread reads.

    Ray may not answer for long, and never does when its head is gone: who asks here never waits. A worker's
    sign of life is a number that it counts up, so no clock of another machine is read.
    """

    def __init__(self, run: str) -> None:
        self.wanted = 0  # workers that the run would like to have
        self.moved = time.monotonic()  # when a step, or a storage call tried again, was last seen
        self.hopeless: str | None = None  # why no worker can start
        self._run = run
        self._signs: dict[str, tuple[int, float]] = {}  # by worker: its last sign, and when it came here
        self._moves: dict[str, int] = {}  # by worker, all that it made
        self._alive: dict[str, dict[str, Any]] = {}  # by worker, what it told last
        self._begun = False  # a worker could start
        self._news: list[str] = []  # of machines that are waited for

    @contextmanager
    def watched(self) -> Iterator[Self]:
        """While entered, a thread reads the board; it is wiped in the end."""

        def look() -> None:
            with suppress(Exception):  # of Ray's head, which may be away for a while
                self.look()

        try:
            with every(LOOK_SECONDS, look, patience=LOOK_SECONDS) as thread:
                yield self
        finally:
            if not thread.is_alive():  # else Ray does not answer
                with suppress(Exception):  # of Ray's head; what is left there goes with it
                    board.clear(self._run)

    def look(self) -> None:
        """Reads the board once."""
        found, now = board.read(self._run, TOPIC), time.monotonic()
        for name, told in found.items():
            if name not in self._signs or self._signs[name][0] != told["sign"]:
                self._signs[name] = told["sign"], now
            if self._moves.get(name, 0) < told["moves"]:
                self._moves[name], self.moved = told["moves"], now
        lost = {name for name in found if now - self._signs[name][1] > GONE}
        for name in lost:  # in ten days on spot machines they become thousands
            board.remove(self._run, TOPIC, name)
        self._alive = {name: told for name, told in found.items() if name not in lost}
        self._begun = self._begun or any(told["state"] != "loading" for told in self._alive.values())
        if not self._begun:
            self.hopeless = starting.hopeless(self._run, {node["NodeID"] for node in nodes.alive()})
        self._news = autoscaler.news(ray.get_runtime_context().gcs_address) if self._waiting() else []

    @property
    def is_there(self) -> bool:
        """Whether any worker is."""
        return bool(self._alive)

    def at_work(self) -> set[str]:
        """The workers that are at a block, by the names that their receipts have."""
        return {name for name, told in self._alive.items() if told["state"] == "at work"}

    @property
    def under_way(self) -> float:
        """Images' worth of the steps that are done and in no receipt."""
        return float(sum(told["images"] for told in self._alive.values()))

    def line(self) -> str:
        """Such as "12 at work (step 310 of 1000), 3 loading, 17 waiting for a machine"; "" before any."""
        states = Counter(told["state"] for told in self._alive.values())
        at_work = self._at_work()
        step = median_low([told["done"] for told in at_work]) if at_work else 0
        parts = {
            "at work" + (f" (step {step} of {at_work[0]['steps']})" if at_work else ""): states["at work"],
            "loading": states["loading"],
            "waiting for a machine" + (f" ({'; '.join(self._news)})" if self._news else ""): self._waiting(),
        }
        return ", ".join(f"{count} {what}" for what, count in parts.items() if count)

    def _waiting(self) -> int:
        return max(0, self.wanted - len(self._alive))

    def _at_work(self) -> list[dict[str, Any]]:
        """Those that told of steps."""
        return [told for told in self._alive.values() if told["state"] == "at work" and told["steps"]]
