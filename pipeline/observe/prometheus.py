"""Prometheus metrics of a run, which Ray serves at every node's /metrics with `ray_` before their names.

Each carries the tag `run`, the job's fingerprint, beside Ray's own tags of node and worker. Actors count what
they commit, the driver how far the run is. Ray collects from each process every ten seconds and when it ends
in order: what a killed one counted in its last ten seconds is missing here, never in the output. Of a
histogram it hands on the buckets; the sum that it shows is made of their middles, right to within a third.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram, Metric

SECONDS = [2.0**power for power in range(-6, 13)]  # 16 ms to 68 minutes


class ActorMetrics:
    """What one actor restored. device: cpu or cuda."""

    def __init__(self, run: str, device: str) -> None:
        self._on_gpu = device == "cuda"
        self._images = _of(
            run, Counter("p2l_images_total", "Rows restored and committed.", ("run", "status"))
        )
        self._seconds = _of(
            run,
            Histogram(
                "p2l_image_seconds", "Seconds of a restored image.", boundaries=SECONDS, tag_keys=("run",)
            ),
        )
        self._nfe = _of(run, Counter("p2l_nfe_total", "Network evaluations.", ("run",)))
        self._steps = _of(
            run, Counter("p2l_steps_total", "Steps of micro-batches, or of captioning.", ("run",))
        )
        self._memory = _of(run, Gauge("p2l_gpu_memory_bytes", "Peak allocated on the actor's GPU.", ("run",)))

    def stepped(self, done: int, steps: int) -> None:
        """Counts a step when it is done, as `progress` of `p2l_engine.restore`; or pictures captioned."""
        self._steps.inc()

    def alive(self) -> None:
        """Sets the gauge: again and again, for Ray forgets one that was not set for some seconds."""
        if self._on_gpu:
            self._memory.set(_gpu_bytes())

    def committed(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Counts rows that this actor restored, once they are in the output."""
        for status, count in Counts(row["status"] for row in rows).items():
            self._images.inc(count, {"status": status})
        for row in rows:
            if row["status"] == "ok":
                self._seconds.observe(row["seconds"])
        if nfe := sum(row.get("nfe") or 0 for row in rows):
            self._nfe.inc(nfe)


class DriverMetrics:
    """How far a run is, what it costs, and what was retried; dollars only where they are known."""

    def __init__(self, run: str) -> None:
        def gauge(name: str, description: str) -> Any:
            return _of(run, Gauge(name, description, ("run",)))

        self._planned = gauge("p2l_rows_planned", "Rows of the run.")
        self._done = gauge("p2l_rows_done", "Rows committed, in earlier starts as well.")
        self._spent = gauge("p2l_dollars_spent", "Workers' time at their price, in earlier starts as well.")
        self._budget = gauge("p2l_dollars_planned", "The job's budget.")
        self._retries = _of(
            run, Counter("p2l_storage_retries_total", "Retried storage calls.", ("run", "error"))
        )
        self._told: Counts[str] = Counts()

    def set(self, *, planned: int, done: int, spent: float | None, budget: float | None) -> None:
        """Sets all; a gauge whose value is None is not exported."""
        self._planned.set(planned)
        self._done.set(done)
        self._spent.set(spent)
        self._budget.set(budget)

    def retried(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Counts what `counts`, all retries of this start by error, gained since the last call; tells it."""
        gained = {
            error: count - self._told[error] for error, count in counts.items() if count > self._told[error]
        }
        for error, count in gained.items():
            self._retries.inc(count, {"error": error})
        self._told.update(gained)
        return gained


def _of(run: str, metric: Metric) -> Any:
    return metric.set_default_tags({"run": run})


def _gpu_bytes() -> int:
    import torch  # not needed, and slow to come, where only the driver's half is used

    return torch.cuda.max_memory_allocated()
