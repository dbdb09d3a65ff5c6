"""Histograms as numbers: the template draws them as inline SVG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.output.columns import Metric
from pipeline.results.report.text import number, with_unit

WIDTH, HEIGHT, GAP = 320.0, 96.0, 1.0  # SVG units
BINS = 24


@dataclass(frozen=True)
class Bar:
    """One bar in SVG units, with what it counts in words."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """The distribution of one metric over the `ok` rows that have a finite value of it."""

    metric: Metric
    count: int
    infinite: int
    mean: float
    median: float
    low: float  # 5th percentile
    high: float  # 95th percentile
    first: float  # left end of the axis
    last: float  # right end of the axis
    median_x: float
    bars: tuple[Bar, ...]


def histogram(metric: Metric, values: NDArray[np.float64]) -> Histogram | None:
    """The histogram of values (N,), or None when none is finite. Infinite ones are counted apart."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    first, last = float(finite.min()), float(finite.max())
    if last - first < 1e-9 * max(abs(first), 1.0):  # all the same: one bar in the middle
        margin = max(abs(first) * 0.01, 1e-6)
        first, last = first - margin, last + margin
    counts, edges = np.histogram(
        finite, bins=min(BINS, max(5, int(np.sqrt(len(finite))) * 2)), range=(first, last)
    )
    step = WIDTH / len(counts)
    bars = tuple(
        Bar(
            x=round(i * step + GAP / 2, 2),
            y=round(HEIGHT * (1 - count / counts.max()), 2),
            width=round(step - GAP, 2),
            height=round(HEIGHT * count / counts.max(), 2),
            label=f"{number(metric, edges[i])} to {with_unit(metric, edges[i + 1])}: {count}",
        )
        for i, count in enumerate(counts)
        if count
    )
    low, median, high = (float(q) for q in np.percentile(finite, [5, 50, 95]))
    return Histogram(
        metric=metric,
        count=len(finite),
        infinite=int(np.isinf(values).sum()),
        mean=float(finite.mean()),
        median=median,
        low=low,
        high=high,
        first=first,
        last=last,
        median_x=round(WIDTH * (median - first) / (last - first), 2),
        bars=bars,
    )
