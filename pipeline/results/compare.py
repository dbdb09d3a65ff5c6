"""Two or more runs side by side: the differences on the images that they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from p2l_engine.metrics import NETWORKS
from pipeline.output.folder import RUN, OutputFolder
from pipeline.results import paired, set_differences
from pipeline.results.bootstrap import mean_interval
from pipeline.results.paired import Rows

# Settings that change what is measured: where they differ, a difference is not the method's alone.
SAME_TASK = ("mode", "size", "fit", "operator", "noise", "seed")


@dataclass(frozen=True)
class Difference:
    """One metric of one run against the first: means over the same images, and their paired difference.

    Of distances of sets, the distances from the originals. low, high: 95 % confidence interval of the
    difference by resampling images (`pipeline.results.bootstrap`), None for too few of them.
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
    for run in runs:
        OutputFolder(run).check()
    first = paired.rows_of(OutputFolder(runs[0]))
    config = first.run.json(RUN).get("config", {})
    differences: list[Difference] = []
    notes: list[str] = []
    for run in runs[1:]:
        rows = paired.rows_of(OutputFolder(run))
        notes += _missing(rows, first)
        notes += _other_task(rows.run, rows.run.json(RUN).get("config", {}), config)
        notes += _unscored(rows, first)
        notes += _without_originals(rows, first)
        ok = paired.both_ok(first, rows)
        if failed := paired.shared(first, rows) - len(ok):
            notes.append(f"{failed} images failed in {run} or in the first run and are left out")
        differences += _differences(first, rows, ok)
    return Comparison(first.run.url, tuple(differences), tuple(notes))


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
    for runs in zip(first, second, strict=True):
        one, other = (paired.rows_of(OutputFolder(run)) for run in runs)
        paired.shared(one, other)
        for found in paired.pairs(one, other, paired.both_ok(one, other)):
            table = pa.table({"key": found.keys, "x": found.first, "y": found.second})
            values[found.metric].append(table)
    return {metric: _over_images(pa.concat_tables(tables)) for metric, tables in values.items()}


def _over_images(pairs: pa.Table) -> PairedMean:
    by_image = pairs.group_by("key").aggregate([("x", "mean"), ("y", "mean")])
    x, y = by_image["x_mean"].to_numpy(), by_image["y_mean"].to_numpy()
    error = float((y - x).std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else None
    return PairedMean(len(x), float(x.mean()), float(y.mean()), float((y - x).mean()), error)


def _differences(first: Rows, rows: Rows, ok: pa.Table) -> Iterator[Difference]:
    run = rows.run.url
    for found in paired.pairs(first, rows, ok):
        x, y = found.first, found.second
        low, high = mean_interval(y - x) or (None, None)
        means = float(x.mean()), float(y.mean()), float((y - x).mean())
        yield Difference(run, found.metric, len(x), *means, low, high)
    for one in set_differences.of(first, rows, ok["key"].to_pylist()):
        difference = one.second - one.first
        low, high = (None, None) if one.margin is None else (difference - one.margin, difference + one.margin)
        yield Difference(run, one.name, one.images, one.first, one.second, difference, low, high)


def _missing(rows: Rows, first: Rows) -> Iterator[str]:
    """Keys that only one of the two runs has. Raises ValueError when none is in both."""
    both = paired.shared(first, rows)
    for here, there in ((first, rows), (rows, first)):
        if len(here.table) > both:
            yield f"{len(here.table) - both} keys of {here.run} are missing in {there.run}"


def _unscored(rows: Rows, first: Rows) -> Iterator[str]:
    """Networks that only one of the two runs is scored by."""
    for here, there in ((first, rows), (rows, first)):
        if lacking := [network for network in here.networks if network not in there.networks]:
            yield f"{there.run} has no scores by {', '.join(lacking)}, {here.run} has: p2l score {there.run}"


def _without_originals(rows: Rows, first: Rows) -> Iterator[str]:
    """Runs whose sets are not compared, since distances are from the runs' own originals."""
    scored = [one for one in (first, rows) if any(NETWORKS[name].frechet for name in one.networks)]
    runs = [one.run.url for one in scored if one.run.json(RUN).get("config", {}).get("mode") == "restore"]
    if runs:
        yield f"{' and '.join(runs)}: without originals, so their sets are not compared"


def _other_task(run: OutputFolder, config: dict[str, Any], first: dict[str, Any]) -> Iterator[str]:
    for name in SAME_TASK:
        if config.get(name) != first.get(name):
            yield f"{run} is another task: {name} is {config.get(name)}, {first.get(name)} in the first run"
