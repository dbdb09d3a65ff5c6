"""What the page says besides its images: counts, settings, distributions, errors by cause, throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output import scores
from pipeline.output.columns import METRIC_COLUMNS, METRICS, Metric
from pipeline.output.folder import UNFINISHED
from pipeline.results.causes import Cause, by_cause
from pipeline.results.noise import NoiseCheck
from pipeline.results.report.charts import Histogram, histogram
from pipeline.results.report.text import duration, significant

COLUMNS = ("key", "status", "error", "nfe", "measured", *METRIC_COLUMNS)
IN_NOISE = Metric("in_noise", "Residual / noise", "", None, needs_reference=False, higher_is_better=False)
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


def histograms(rows: pa.Table, distances: pa.Table, residuals: NoiseCheck | None) -> tuple[Histogram, ...]:
    """One histogram for each metric that some `ok` row has, each score, and the residual over the noise."""
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    drawn = [histogram(metric, numbers(ok, metric.column)) for metric in METRICS]
    if residuals:
        drawn.append(histogram(IN_NOISE, residuals.ratios))
    drawn += [
        histogram(metric, numbers(distances, metric.column))
        for metric in scores.SCORE_METRICS
        if metric.column in distances.column_names
    ]
    return tuple(h for h in drawn if h)


def noise_told(config: Mapping[str, Any], residuals: NoiseCheck | None) -> str | None:
    """Whether the residuals are those of the noise, or why that is not known; None for a run of no job."""
    if not config:
        return None
    if not config.get("noise"):
        return "The job has no noise, so the residuals are held against none."
    if residuals is None:
        return None
    told = residuals.told()
    stated = (
        " The noise of a run in mode restore is what its job says." if config["mode"] == "restore" else ""
    )
    return f"{told[0].upper()}{told[1:]}.{stated}"


def prompts(told: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Of tuned prompts, as prompts.json tells of them: whose it is, and the texts that are nearest."""
    if not told:
        return ()
    before = {"before tuning": told["before"]} if "before" in told else {}
    rows = before | {f"mean of {told['rows']:,}": told["mean"]} | told["images"]
    return tuple(
        (name, "; ".join(f"{kind}: {_near(of[kind])}" for kind in ("words", "captions") if kind in of))
        for name, of in rows.items()
    )


def _near(texts: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(one["text"] for one in texts)


def sets(summed_up: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Distances of sets, by name and what they are from."""
    return tuple(
        (
            f"{one['name']}, {one['images']:,} images from {one['references']:,} of {one['against']}",
            significant(one["value"]),
        )
        for one in summed_up.get("sets", ())
    )


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
