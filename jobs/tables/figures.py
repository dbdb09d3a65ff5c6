"""What came out of a table's cells, and the table in Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from jobs.tables.grid import Cell, Grid
from pipeline.output.columns import METRIC_COLUMNS, METRICS, Metric
from pipeline.output.folder import SUMMARY, OutputFolder
from pipeline.output.rows import all_rows
from pipeline.output.scores import SCORES_FILE
from pipeline.results.compare import PairedMean, paired_runs
from pipeline.stores import storage


@dataclass(frozen=True)
class Figures:
    """Of a row in a column: how many images were restored with how many seeds each, and rows that failed.

    means: by metric, of finite values. gains: by metric, over the row that this one is compared with.
    scores: by name, of those that `score` gave the cells; of several seeds their mean.
    """

    images: int
    seeds: int
    errors: int
    means: Mapping[str, float]
    gains: Mapping[str, PairedMean]
    scores: Mapping[str, float] = field(default_factory=dict)


Table = Mapping[tuple[str, str], Figures]  # by row and column
PSNR = next(metric for metric in METRICS if metric.column == "psnr")


def read(grid: Grid, out: str, seeds: int) -> Table:
    """The figures of all rows and columns that have a finished cell with one of the first `seeds` seeds."""
    return {
        (name, column): _figures(runs, _finished(row.against, column, out, seeds))
        for name, row in grid.rows.items()
        for column in grid.columns
        if (runs := _finished(name, column, out, seeds))
    }


def _finished(row: str | None, column: str, out: str, seeds: int) -> dict[int, str]:
    """The output folders by seed."""
    if row is None:
        return {}
    folders = {seed: Cell(row, column, seed).folder(out) for seed in range(seeds)}
    return {seed: url for seed, url in folders.items() if storage.exists(storage.join(url, SUMMARY))}


def _figures(runs: Mapping[int, str], others: Mapping[int, str]) -> Figures:
    tables = [all_rows(OutputFolder(url), METRIC_COLUMNS) for url in runs.values()]
    values = {
        name: np.concatenate([table[name].drop_null().to_numpy() for table in tables]).astype(float)
        for name in METRIC_COLUMNS
    }
    means = {name: float(v[np.isfinite(v)].mean()) for name, v in values.items() if np.isfinite(v).any()}
    both = sorted(runs.keys() & others.keys())
    gains = paired_runs([others[seed] for seed in both], [runs[seed] for seed in both]) if both else {}
    errors = sum(status != "ok" for table in tables for status in table["status"].to_pylist())
    images = len({key for table in tables for key in table["key"].to_pylist()})
    return Figures(images, len(runs), errors, means, gains, _scores(list(runs.values())))


def _scores(runs: Sequence[str]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for url in runs:
        found = OutputFolder(url).json(SCORES_FILE)
        for name, of in found.get("metrics", {}).items():
            values[name].append(of["mean"])
        for one in found.get("sets", ()):
            values[one["name"]].append(one["value"])
    return {name: fmean(of) for name, of in values.items() if len(of) == len(runs)}


def overview(grid: Grid, table: Table) -> str:
    """Markdown: a row a method, a column a task, PSNR and its gain over the row named."""
    lines = [line(["method", "gain over", *grid.columns]), line(["---"] * (len(grid.columns) + 2))]
    for name, row in grid.rows.items():
        found = [table.get((name, column)) for column in grid.columns]
        lines.append(line([name, row.against or "", *(_cell(figures) for figures in found)]))
    return "\n".join(lines)


def every_figure(grid: Grid, table: Table) -> str:
    """Markdown: a line for each row in each column, with every metric, and the gains of those of quality."""
    gained = [metric for metric in METRICS if metric.needs_reference]
    heading = ["task", "method", *(metric.heading for metric in METRICS), "gain over"]
    heading += [*(metric.title for metric in gained), "images x seeds"]
    lines = [line(heading), line(["---"] * len(heading))]
    for column in grid.columns:
        for name, row in grid.rows.items():
            if (found := table.get((name, column))) is None:
                continue
            means = [number(metric, found.means.get(metric.column)) for metric in METRICS]
            gains = [gain(metric, found.gains.get(metric.column)) for metric in gained]
            counts = f"{found.images} x {found.seeds}" + (f", {found.errors} errors" if found.errors else "")
            lines.append(line([column, name, *means, row.against or "", *gains, counts]))
    return "\n".join(lines)


def records(grid: Grid, out: str, seeds: int) -> str:
    """CSV: every image's metrics in every finished cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "method", "seed", "key", "status", *METRIC_COLUMNS])
    for column in grid.columns:
        for name in grid.rows:
            for seed, url in _finished(name, column, out, seeds).items():
                for row in all_rows(OutputFolder(url), METRIC_COLUMNS).sort_by("key").to_pylist():
                    figures = ["" if row[m] is None else f"{row[m]:.4f}" for m in METRIC_COLUMNS]
                    writer.writerow([column, name, seed, row["key"], row["status"], *figures])
    return text.getvalue()


def number(metric: Metric, value: float | None) -> str:
    """A mean with its digits, nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.3g}" if metric.decimals is None else f"{value:.{metric.decimals}f}"


def gain(metric: Metric, found: PairedMean | None) -> str:
    """A paired difference and its standard error over images, nothing where there is none."""
    if found is None or found.standard_error is None:
        return ""
    digits = metric.decimals or 3
    return f"{found.difference:+.{digits}f} ± {found.standard_error:.{digits}f}"


def _cell(found: Figures | None) -> str:
    if found is None or PSNR.column not in found.means:
        return ""
    gained = gain(PSNR, found.gains.get(PSNR.column))
    return number(PSNR, found.means[PSNR.column]) + (f" ({gained})" if gained else "")


def line(cells: Sequence[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"
