"""What the driver tells of a run while it works: metrics, events in the log, and what its workers took."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
import ray

from pipeline import messages
from pipeline.cluster import session
from pipeline.config import JobConfig
from pipeline.observe import logs
from pipeline.observe.prometheus import DriverMetrics
from pipeline.output.folder import OutputFolder
from pipeline.output.usage_json import Usage
from pipeline.threads import every

log = logging.getLogger(__name__)

SECONDS_BETWEEN_GAUGES = 5.0


class Observer:
    """Told of a run's rows once they are counted, and of every commit."""

    def __init__(self, config: JobConfig) -> None:
        self.usage = Usage(OutputFolder(config.output), config.price)
        self._budget = config.budget
        self._metrics = DriverMetrics(config.fingerprint)
        self._rows: int | None = None  # until they are counted
        self._done = 0

    def counted(self, rows: int, done: int) -> None:
        """rows: of the run. done: those committed before this start."""
        self._rows, self._done = rows, done
        self.set_metrics()
        log.info("rows counted", extra=self.state)

    def committed(self, receipts: pa.Table) -> None:
        """Takes note of a block; the rows of each shard in it are one commit."""
        self._done += receipts.num_rows
        self.usage.committed(receipts)
        self.set_metrics()
        commits: dict[str, Counter[str]] = defaultdict(Counter)
        for row in receipts.to_pylist():
            worker = {"worker": row["actor"], "worker_node": row["node"]}
            commits[row["source_shard"]][row["status"]] += 1
            if row["status"] == "error":
                what = {"shard": row["source_shard"], "key": row["key"], "error": row["error"]}
                log.error("row failed", extra=what | {"cause": messages.cause(row["error"])} | worker)
        for shard, statuses in commits.items():
            counts = {"rows": statuses.total(), "errors": statuses["error"]}
            log.info("commit", extra={"shard": shard} | counts | worker)

    def retried(self, counts: Mapping[str, int]) -> None:
        """Takes note of storage calls that were tried again: all of this start, by the name of the error."""
        for error, count in self._metrics.retried(counts).items():
            log.warning("storage calls retried", extra={"error": error, "count": count})

    @property
    def state(self) -> dict[str, Any]:
        return {"rows": self._rows or 0, "done": self._done, "dollars": self.usage.dollars}

    def set_metrics(self) -> None:
        """Sets the gauges: again and again, for Ray forgets one that was not set for some seconds."""
        if self._rows is not None:
            spent = self.usage.dollars
            self._metrics.set(planned=self._rows, done=self._done, spent=spent, budget=self._budget)


@contextmanager
def observing(config: JobConfig) -> Iterator[Observer]:
    """Observes a run for as long as the block takes; how it ended is logged, and its usage written."""
    with logs.of_driver(config.fingerprint, session.log_folder()):
        log.info("run started", extra={"output": config.output})
        observer = Observer(config)
        try:
            with every(SECONDS_BETWEEN_GAUGES, observer.set_metrics, patience=SECONDS_BETWEEN_GAUGES):
                yield observer
        except BaseException as error:
            failed = isinstance(error, Exception)
            log.log(
                logging.ERROR if failed else logging.WARNING,
                "run failed" if failed else "run stopped",
                extra=observer.state | {"error": _said(error)},
            )
            with suppress(OSError):  # no news beside the error itself
                observer.usage.write()
            raise
        observer.usage.write()
        log.info("run complete", extra=observer.state)


def _said(error: BaseException) -> str:
    """An error's own words, without the traceback that Ray puts around those of its tasks."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    return str(cause) or type(cause).__name__
