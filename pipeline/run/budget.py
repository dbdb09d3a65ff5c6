"""The budget: ends a run, as SIGTERM does, when its machines have cost so much."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pipeline.output.usage_json import Usage
from pipeline.run.stop import Stop
from pipeline.threads import every

CHECK_SECONDS = 5.0


def spent(dollars: float, budget: float) -> str:
    """What a run says that ends for it."""
    return (
        f"stopped at the budget: {dollars:.4g} of {budget:g} USD are spent. What is committed stays, and the "
        "same command goes on from there with a higher budget"
    )


@contextmanager
def kept(usage: Usage, budget: float | None, stop: Stop, gpus: Callable[[], float]) -> Iterator[None]:
    """While entered, counts the GPUs that a run pays for, and ends it through `stop` when all is spent.

    gpus: how many there are, at work or not; it may raise.
    """
    last = time.monotonic()

    def check() -> bool:
        nonlocal last
        with suppress(Exception):  # of a cluster that is gone for a moment; then the time counts later
            count, now = gpus(), time.monotonic()
            usage.had(count, now - last)
            last = now
        dollars = usage.dollars
        if budget is None or dollars is None or dollars < budget:
            return True
        stop.at_budget(spent(dollars, budget))
        return False

    with every(CHECK_SECONDS, check, patience=CHECK_SECONDS):
        yield
