"""usage.json: what the workers of every start of a run took, and what that costs.

A worker's seconds go from its start, before its model loads, to its last commit. What it did after that, and
machines without a worker, are not in them. On a cluster with GPUs every GPU there is counts as a worker for
as long as the driver restores, idle or not: the larger of the two is what a start costs. Disks, networks, the
head and machines that wait to be taken down come on top. A driver that is killed leaves what it last wrote,
at most a minute old.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.output.folder import USAGE, OutputFolder, now

SECONDS_BETWEEN_WRITES = 60.0


@dataclass(frozen=True)
class StartUsage:
    """One start of a run. usd_per_worker_hour: the price it was given, if it was given one.

    gpu_seconds: of all GPUs of the cluster, at work or not.
    """

    started: str
    rows: int
    workers: int
    worker_seconds: float
    usd_per_worker_hour: float | None
    gpu_seconds: float = 0.0

    @property
    def paid_seconds(self) -> float:
        return max(self.worker_seconds, self.gpu_seconds)


class Usage:
    """Counts this start's part, from receipts and GPUs, beside that of the starts before it."""

    def __init__(self, output: OutputFolder, price: float | None) -> None:
        self._output, self._price = output, price
        self._started = now()
        self._earlier = read(output)
        self._seconds: dict[str, float] = {}  # by worker
        self._rows, self._gpu_seconds = 0, 0.0
        self._written = time.monotonic()
        self._writing = threading.Lock()  # commits come from one thread, GPUs from another

    def committed(self, receipts: pa.Table) -> None:
        """Takes note of workers' time, by the columns `actor` and `actor_seconds`; writes now and then."""
        self._rows += receipts.num_rows
        for worker, seconds in zip(
            receipts.column("actor").to_pylist(), receipts.column("actor_seconds").to_pylist(), strict=True
        ):
            self._seconds[worker] = max(seconds, self._seconds.get(worker, 0.0))
        self._write_now_and_then()

    def had(self, gpus: float, seconds: float) -> None:
        """The cluster had so many GPUs for so long; writes now and then, commits or not."""
        self._gpu_seconds += gpus * seconds
        self._write_now_and_then()

    def _write_now_and_then(self) -> None:
        with self._writing:
            if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
                with suppress(OSError):  # a store that does not answer is written to a minute later
                    self._write()

    def write(self) -> None:
        with self._writing:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._output.write_json(USAGE, [asdict(start) for start in self.starts])

    @property
    def starts(self) -> list[StartUsage]:
        seconds = round(sum(list(self._seconds.values())), 3)
        this = StartUsage(
            self._started, self._rows, len(self._seconds), seconds, self._price, round(self._gpu_seconds, 3)
        )
        return [*self._earlier, this]

    @property
    def dollars(self) -> float | None:
        return dollars(self.starts, self._price)


def read(output: OutputFolder) -> list[StartUsage]:
    """Every start that an output knows of."""
    starts = output.json(USAGE, list)
    try:
        return [StartUsage(**start) for start in starts]
    except TypeError as error:
        raise output.damaged(USAGE, error) from error


def dollars(starts: Sequence[StartUsage], price: float | None) -> float | None:
    """What the starts cost, each at its own price, else at `price`; None where one has neither."""
    hours = [start.paid_seconds / 3600 for start in starts]
    prices = [price if start.usd_per_worker_hour is None else start.usd_per_worker_hour for start in starts]
    if any(usd is None for usd in prices):
        return None
    return sum(hour * (usd or 0.0) for hour, usd in zip(hours, prices, strict=True))


def cost(output: OutputFolder, price: float | None, row_seconds: float) -> dict[str, Any]:
    """For the summary. row_seconds: of computing the output's rows, a part of the workers' seconds."""
    starts = read(output)
    spent = dollars(starts, price)
    return {
        "usd_per_worker_hour": price,
        "worker_seconds": round(sum(start.worker_seconds for start in starts), 3),
        "gpu_seconds": round(sum(start.gpu_seconds for start in starts), 3),
        "dollars": None if spent is None else round(spent, 6),
        "row_seconds": round(row_seconds, 3),
        "dollars_of_rows": None if price is None else round(row_seconds / 3600 * price, 6),
    }
