"""Ends a run that nothing else would end: no commit for too long, or a Ray cluster that is gone.

Ray Data has a limit of its own, which it checks between calls to Ray that can wait for ever: when the whole
cluster was lost, it does not fire.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self

import ray

from pipeline.cluster.crew import Crew
from pipeline.run.failures import GOES_ON
from pipeline.run.stop import Stop
from pipeline.threads import every

CHECK_SECONDS = 5.0
LEAST_WAIT, FIRST_WAIT, LONGEST_WAIT = 1800.0, 7200.0, 86400.0  # s without progress, where that is "auto"
TIMES_GONE = 3  # in a row: a cluster's head may be restarted, and be the same cluster


class Watch:
    """Ends the run through `stop` when it does not move."""

    def __init__(self, limit: float | Literal["auto"], stop: Stop, crew: Crew) -> None:
        self._given, self._stop, self._crew = limit, stop, crew
        self._last = time.monotonic()
        self._longest = 0.0  # s from one commit to the next
        self._gone = 0  # checks in a row that found no cluster
        self._had_workers = False
        self._ended = False  # what a check under way finds then, such as that Ray is gone, ends nothing

    @contextmanager
    def kept(self) -> Iterator[Self]:
        """While entered, a thread watches. Enter it when Ray is there."""
        context = ray.get_runtime_context()
        self._node, self._address = context.get_node_id(), context.gcs_address
        with every(min(CHECK_SECONDS, self.limit), self._check, patience=CHECK_SECONDS):
            try:
                yield self
            finally:
                self._ended = True

    def progress(self) -> None:
        """Something was committed."""
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now

    @property
    def limit(self) -> float:
        """Seconds without progress after which the run ends.

        auto: by the longest that a commit took, and at first by what it may take. A cluster that has no
        machine to give costs nothing, and is waited for longer.
        """
        if self._given != "auto":
            return self._given
        if not self._crew.is_there:
            return LONGEST_WAIT
        return max(LEAST_WAIT, 3 * self._longest + LEAST_WAIT / 2) if self._longest else FIRST_WAIT

    def _check(self) -> bool:
        """Whether to go on."""
        reason = self._reason()
        if reason is not None and not self._ended:
            self._stop.now(reason)
        return reason is None

    def _reason(self) -> str | None:
        self._gone = 0 if self._is_there() else self._gone + 1
        if self._gone == TIMES_GONE:
            return f"the Ray cluster at {self._address} is gone. {GOES_ON}"
        self._count_from_the_first_worker()
        if self._crew.hopeless is not None:
            return f"no worker could start: {self._crew.hopeless}. Mend that. {GOES_ON}"
        last = max(self._last, self._crew.moved) if self._given == "auto" else self._last
        if time.monotonic() - last > (limit := self.limit):
            return (
                f"nothing was committed for {limit:g} s: a worker hangs, or none could start, as `ray "
                f"status` tells. {GOES_ON}; set no_progress_seconds higher if commits take longer"
            )
        return None

    def _count_from_the_first_worker(self) -> None:
        """A wait for machines, or for the scan, is nobody's commit, and no limit of one is judged by it."""
        there = self._crew.is_there
        if there and not self._had_workers:
            self._last = time.monotonic()
        self._had_workers = there

    def _is_there(self) -> bool:
        """Whether the head answers, and still knows the node that this driver belongs to."""
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CHECK_SECONDS).close()
            return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == self._node)
        except Exception:  # of sockets and of Ray, and all of them mean no
            return False
