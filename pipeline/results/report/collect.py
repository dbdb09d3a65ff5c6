"""What the page says besides its images: counts, settings, distributions, errors by cause, throughput."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.columns import METRIC_COLUMNS, METRICS
from pipeline.output.folder import UNFINISHED
from pipeline.results.causes import Cause, by_cause
from pipeline.results.report.charts import Histogram, histogram
from pipeline.results.report.text import duration

COLUMNS = ("key", "status", "error", "nfe", *METRIC_COLUMNS)
KEYS_SHOWN = 50  # keys listed under one cause; the rest are counted


@dataclass(frozen=True)
class Counts:
    """Rows of an output, by status."""

    rows: int
    ok: int
    errors: int
    unfinished: int  # rows in shards that are not complete yet


def counts(rows: pa.Table) -> Counts:
    """How many rows there are, and how many of each kind."""
    ok = sum(status == "ok" for status in rows["status"].to_pylist())
    unfinished = sum(file.startswith(f"{UNFINISHED}/") for file in rows["file"].to_pylist())
    return Counts(len(rows), ok, len(rows) - ok, unfinished)


def histograms(rows: pa.Table) -> tuple[Histogram, ...]:
    """One histogram for each metric that some `ok` row has."""
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    drawn = (histogram(metric, numbers(ok, metric.column)) for metric in METRICS)
    return tuple(h for h in drawn if h)


def numbers(rows: pa.Table, column: str) -> np.ndarray:
    """The column's values (N,) float64 without its nulls and NaNs."""
    values = rows[column].drop_null().cast(pa.float64()).to_numpy()
    return values[~np.isnan(values)]


def causes(rows: pa.Table) -> list[Cause]:
    """The failed rows by cause."""
    return by_cause(rows.filter(pc.not_equal(rows["status"], "ok")).sort_by("key"), "error", KEYS_SHOWN)


def throughput(rows: pa.Table, summary: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Named figures of speed: from the rows' own seconds, and of the last start from summary.json."""
    found: list[tuple[str, str]] = []
    seconds = numbers(rows, "seconds")
    if seconds.sum() > 0:
        found += [
            ("mean time an image", duration(seconds.mean())),
            ("95 % of images within", duration(np.percentile(seconds, 95))),
            ("images an hour and worker", f"{3600 / seconds.mean():,.0f}"),
            ("time of all workers", duration(float(seconds.sum()))),
        ]
    evaluations = numbers(rows, "nfe")
    if len(evaluations):
        found.append(("network evaluations an image", f"{evaluations.mean():,.0f}"))
    start = summary.get("this_start", {})
    if start.get("rows"):
        found += [
            ("rows of the last start", f"{start['rows']:,}"),
            ("its wall-clock time", duration(start["seconds"])),
            ("its images an hour", f"{3600 * start['rows'] / start['seconds']:,.0f}"),
        ]
    return tuple(found)
