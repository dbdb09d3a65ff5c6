"""The budget: ends a run, as SIGTERM does, when its machines have cost so much."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from pipeline.output.usage_json import Usage
from pipeline.run.stop import Stop

CHECK_SECONDS = 5.0


def spent(dollars: float, budget: float) -> str:
    """What a run says that ends for it."""
    return (
        f"stopped at the budget: {dollars:.4g} of {budget:g} USD are spent. What is committed stays, and the "
        "same command goes on from there with a higher budget"
    )


class Budget:
    """While entered, counts the GPUs that a run pays for, and ends it through `stop` when all is spent.

    gpus: how many there are, at work or not; it may raise.
    """

    def __init__(self, usage: Usage, budget: float | None, stop: Stop, gpus: Callable[[], float]) -> None:
        self._usage, self._budget, self._stop, self._gpus = usage, budget, stop, gpus
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(CHECK_SECONDS)

    def _run(self) -> None:
        while not self._ended.wait(CHECK_SECONDS):
            with suppress(Exception):  # of a cluster that is gone for a moment; then the time counts later
                gpus, now = self._gpus(), time.monotonic()
                self._usage.had(gpus, now - self._last)
                self._last = now
            dollars = self._usage.dollars
            if self._budget is not None and dollars is not None and dollars >= self._budget:
                self._stop.at_budget(spent(dollars, self._budget))
                break
