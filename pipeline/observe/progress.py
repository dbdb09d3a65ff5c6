"""How far a run is: a live bar on a terminal, a line every 30 seconds without one; on standard error.

The same figures go into the output's progress.json every 30 seconds.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from pipeline.cluster.crew import Crew
from pipeline.output.progress_json import Start
from pipeline.threads import every

SECONDS_BETWEEN_LINES = 30.0
LONGEST_WRITE = 1.0  # seconds that the end of a run waits for a write to progress.json under way


def say(text: str) -> None:
    """One line for whoever watches, before there is progress to show."""
    _console().print(text)


def _console() -> Console:
    """Standard error as it is now; what it prints may hold paths, in which [red] and :cat: are no markup."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


class Progress:
    """Counts committed rows. total: rows of the run. done: those committed before this start.

    micro_batch: images at a time that actors start with; a smaller one in a receipt is told of. retries: the
    error of each retry before; those of receipts are added. crew: the workers, told of beside the rows.
    """

    def __init__(
        self,
        start: Start,
        total: int,
        done: int,
        micro_batch: int,
        *,
        retries: Iterable[str] = (),
        crew: Crew | None = None,
        interval: float = SECONDS_BETWEEN_LINES,
    ) -> None:
        self._entry = start
        self._crew = crew
        self.total, self.before, self.done, self.errors = total, done, done, 0
        self.retries = Counter(retries)
        self._micro_batch, self._checkpointing = micro_batch, False
        self._interval = interval
        self._console = _console()
        self._start = time.monotonic()
        self._last_is_out = False  # the line that says that all is done
        self._bar = Bar(
            TextColumn("restoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=total, completed=done, rate="")

    @contextmanager
    def shown(self) -> Iterator[Self]:
        """While entered, a thread tells of it; the last line is there in the end."""
        self._entry.update(self.total, self.done, self.errors)
        try:
            with self._drawn(), every(self._interval, self._tell, patience=LONGEST_WRITE):
                yield self
        except Exception:
            raise
        except BaseException as error:  # stopped: in seconds this process may be killed
            self._entry.failed(error)
            raise
        self._entry.update(self.total, self.done, self.errors)

    @contextmanager
    def _drawn(self) -> Iterator[None]:
        if self._console.is_terminal:
            with self._bar:
                yield
            return
        try:
            yield
        finally:
            self._print()

    def say(self, text: str) -> None:
        """One line for whoever watches."""
        self._console.print(text)

    def committed(self, receipts: pa.Table) -> None:
        """Takes note of committed rows, an actor's micro-batch and what was tried again.

        Of the columns `status`, `micro_batch`, `checkpointing` and `retries`.
        """
        self.retries.update(name for names in receipts.column("retries").to_pylist() for name in names)
        self.done += receipts.num_rows
        self.errors += receipts.column("status").to_pylist().count("error")
        self._bar.update(self._task, completed=self.done, rate=self._rate())
        smallest = pc.min(receipts.column("micro_batch")).as_py()
        if smallest < self._micro_batch:
            self._micro_batch = smallest
            self.say(f"going on with {smallest} images at a time: more take too much memory or are no faster")

        if not self._checkpointing and pc.any(receipts.column("checkpointing")).as_py():
            self._checkpointing = True
            self._entry.checkpointing()
            self.say("going on with activation checkpointing: some images take too much memory without it")

    def line(self) -> str:
        at = self._crew.line() if self._crew and self.done < self.total else ""
        return f"restored {self.done} of {self.total} rows, {self._rate()}" + (f"; {at}" if at else "")

    def _trouble(self) -> str:
        """Errors, and retries where there are any."""
        retries = self.retries.total()
        return f"{self.errors} errors" + (f", {retries} retries" if retries else "")

    def _rate(self) -> str:
        """Images a second since this start, the time left at that rate, errors and retries."""
        under_way = self._crew.under_way if self._crew else 0.0  # told of a while ago: it may be done by now
        new = min(self.done + under_way, self.total) - self.before
        if not new:
            return f"no image yet, {self._trouble()}"
        rate = new / max(time.monotonic() - self._start, 1e-9)
        left = _clock((self.total - self.before - new) / rate)
        return f"{rate:.3g} images/s, {left} left, {self._trouble()}"

    def _tell(self) -> None:
        if not self._console.is_terminal:
            self._print()
        with suppress(OSError):  # a store that does not answer is tried again at the next line
            self._entry.update(self.total, self.done, self.errors)

    def _print(self) -> None:
        if self._last_is_out:
            return
        self._last_is_out = self.done == self.total
        self._console.print(self.line())


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
