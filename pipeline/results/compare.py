"""Two or more runs side by side: the differences on the images that they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from pipeline.output.columns import METRIC_COLUMNS
from pipeline.output.folder import RUN, OutputFolder
from pipeline.output.rows import all_rows

CONFIDENCE = 0.95
# Settings that change what is measured: where they differ, a difference is not the method's alone.
SAME_TASK = ("mode", "size", "fit", "operator", "noise", "seed")


@dataclass(frozen=True)
class Difference:
    """One metric of one run against the first: means over the same images, and their paired difference.

    low, high: 95 % confidence interval of the mean difference (Student's t), None for fewer than two images.
    """

    run: str
    metric: str
    count: int
    first_mean: float
    mean: float
    difference: float  # this run minus the first
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """first: the run that all others are held against. notes: what a reader must know beside the numbers."""

    first: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PairedMean:
    """One metric of two methods over the images of their runs.

    difference: mean - first_mean. standard_error: of the difference, over images; None for fewer than two.
    """

    count: int  # images
    first_mean: float
    mean: float
    difference: float
    standard_error: float | None


def compare(runs: Sequence[str]) -> Comparison:
    """Compare each of the runs (URLs of output folders) with the first, on the images that both restored.

    Raises ValueError for fewer than two runs or runs without a common key, FileNotFoundError for no run.
    """
    if len(runs) < 2:
        raise ValueError(f"got {len(runs)} runs; give the output folders of at least two")
    first, *others = map(OutputFolder, runs)
    for run in (first, *others):
        run.check()
    baseline, config = all_rows(first, METRIC_COLUMNS), first.json(RUN).get("config", {})
    differences: list[Difference] = []
    notes: list[str] = []
    for run in others:
        rows = all_rows(run, METRIC_COLUMNS)
        notes += _missing(run, rows, first, baseline)
        notes += _other_task(run, run.json(RUN).get("config", {}), config)
        pairs = _join(baseline, rows)
        notes += _failed(run, pairs)
        differences += _differences(run.url, pairs)
    return Comparison(first.url, tuple(differences), tuple(notes))


def paired(first: np.ndarray, second: np.ndarray) -> tuple[float, float | None, float | None]:
    """Mean of second - first (N,) and its 95 % confidence interval; the interval is None for N < 2."""
    difference = second - first
    mean = float(difference.mean())
    if len(difference) < 2:
        return mean, None, None
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(difference) - 1) * error)
    return mean, mean - margin, mean + margin


def paired_runs(first: Sequence[str], second: Sequence[str]) -> dict[str, PairedMean]:
    """The metrics of two methods that were run equally often, such as with several seeds, by column.

    The n-th run of one is paired with the n-th of the other. An image counts once, by its mean over the pairs
    in which both have it: its restorations by one method are no independent samples of a data set.

    Raises ValueError for unequally many runs, or none, and for a pair without a common key; FileNotFoundError
    for no run.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"got {len(first)} and {len(second)} runs; give equally many of both, at least one")
    values: dict[str, list[pa.Table]] = defaultdict(list)
    for runs in zip(map(OutputFolder, first), map(OutputFolder, second), strict=True):
        for run in runs:
            run.check()
        baseline, rows = (all_rows(run, METRIC_COLUMNS) for run in runs)
        _shared(runs[1], rows, runs[0], baseline)
        for metric, keys, x, y in _pairs(_join(baseline, rows)):
            values[metric].append(pa.table({"key": keys, "x": x, "y": y}))
    return {
        metric: _over_images(pa.concat_tables(values[metric]))
        for metric in METRIC_COLUMNS
        if metric in values
    }


def _over_images(pairs: pa.Table) -> PairedMean:
    by_image = pairs.group_by("key").aggregate([("x", "mean"), ("y", "mean")])
    x, y = by_image["x_mean"].to_numpy(), by_image["y_mean"].to_numpy()
    error = float((y - x).std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else None
    return PairedMean(len(x), float(x.mean()), float(y.mean()), float((y - x).mean()), error)


def _join(first: pa.Table, second: pa.Table) -> pa.Table:
    columns = ["key", "status", *METRIC_COLUMNS]
    return first.select(columns).join(
        second.select(columns), "key", join_type="inner", right_suffix="_second"
    )


def _shared(run: OutputFolder, rows: pa.Table, first: OutputFolder, baseline: pa.Table) -> int:
    """Keys that both runs have. Raises ValueError when there is none."""
    shared: int = pc.sum(pc.is_in(rows["key"], baseline["key"].combine_chunks())).as_py() or 0
    if not shared:
        raise ValueError(f"{run} and {first} have no key in common; runs of the same input can be compared")
    return shared


def _missing(run: OutputFolder, rows: pa.Table, first: OutputFolder, baseline: pa.Table) -> Iterator[str]:
    """Keys that only one of the two runs has."""
    shared = _shared(run, rows, first, baseline)
    if len(baseline) > shared:
        yield f"{len(baseline) - shared} keys of {first} are missing in {run}"
    if len(rows) > shared:
        yield f"{len(rows) - shared} keys of {run} are missing in {first}"


def _failed(run: OutputFolder, pairs: pa.Table) -> Iterator[str]:
    ok = _both_ok(pairs)
    if len(ok) < len(pairs):
        yield f"{len(pairs) - len(ok)} images failed in {run} or in the first run and are left out"


def _other_task(run: OutputFolder, config: dict[str, Any], first: dict[str, Any]) -> Iterator[str]:
    for name in SAME_TASK:
        if config.get(name) != first.get(name):
            yield f"{run} is another task: {name} is {config.get(name)}, {first.get(name)} in the first run"


def _both_ok(pairs: pa.Table) -> pa.Table:
    return pairs.filter(pc.and_(pc.equal(pairs["status"], "ok"), pc.equal(pairs["status_second"], "ok")))


def _pairs(pairs: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray, np.ndarray, np.ndarray]]:
    """Each metric that some image has, finite, in both runs: the keys, and both values (N,)."""
    ok = _both_ok(pairs)
    for metric in METRIC_COLUMNS:
        x, y = (
            ok[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
            for name in (metric, f"{metric}_second")
        )
        both = np.isfinite(x) & np.isfinite(y)
        if both.any():
            yield metric, ok["key"].filter(pa.array(both)), x[both], y[both]


def _differences(run: str, pairs: pa.Table) -> Iterator[Difference]:
    for metric, _, x, y in _pairs(pairs):
        mean, low, high = paired(x, y)
        yield Difference(run, metric, len(x), float(x.mean()), float(y.mean()), mean, low, high)
