"""The early end of a run: SIGTERM, of a preempted machine or `ray job stop`, a lost lease, a spent budget."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Self

import pyarrow as pa

# GKE leaves a pod 15 s and GCE a machine 30 s; the rest is for Ray's end and the interpreter's.
GRACE_SECONDS = 10.0
AT_ONCE = 0.001
TERMINATED = "stopped by SIGTERM; what is committed stays, and the same command goes on from there"


class Stop:
    """While entered, SIGTERM interrupts the main thread as ctrl-C does, and `reason` says why.

    While receipts come in, it first leaves every actor the time to commit the block in work, for at most
    GRACE_SECONDS. What an actor cannot commit in that time is dropped, and restored by the next start.
    Outside of the main thread, where signals cannot be had, only `reason` is set. told: called from a thread
    when that time begins, before the end of which this process may be killed.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.over_budget = False
        self.told: Callable[[], None] = lambda: None
        self._graceful = False
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._main:
            self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Sets the handlers; again after Ray's start, which sets its own."""
        if self._main:
            signal.signal(signal.SIGTERM, self._terminate)
            signal.signal(signal.SIGALRM, self._interrupt)

    def now(self, reason: str) -> None:
        """Ends the run from any thread."""
        self.reason, self.over_budget = reason, False
        if self._main:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def at_budget(self, reason: str) -> None:
        """Ends the run from any thread, as SIGTERM does, for its budget is spent.

        After a SIGTERM the reason is this one, for the same command does not go on, and its time the same.
        """
        before = self.reason
        if before not in (None, TERMINATED):
            return
        self.reason, self.over_budget = reason, True
        if self._main and before is None:
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS if self._graceful else AT_ONCE)

    def gracefully(self, receipts: Iterable[pa.Table], at_work: Callable[[], set[str]]) -> Iterator[pa.Table]:
        """Hands on receipts (column `actor`); after SIGTERM until each actor has committed once more.

        at_work: the actors that have a block in work, for those that have not committed yet.
        """
        in_work, ending = set[str](), False
        self._graceful = True
        try:
            for table in receipts:
                yield table
                actors = set(table.column("actor").to_pylist())
                if self.reason is None:
                    in_work |= actors
                    continue
                if not ending:
                    in_work, ending = in_work | at_work(), True
                in_work -= actors
                if not in_work:
                    raise KeyboardInterrupt(self.reason or "")
        finally:
            self._graceful = False

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None:  # it is ending already
            return
        self.reason = TERMINATED
        if not self._graceful:
            raise KeyboardInterrupt(self.reason or "")
        threading.Thread(target=self.told, daemon=True).start()
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(self.reason or "")
