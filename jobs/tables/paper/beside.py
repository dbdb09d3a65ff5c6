"""A table's figures with the paper's beside them, in Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jobs.tables import figures
from jobs.tables.figures import PSNR, Table
from jobs.tables.grid import Cell, Grid
from jobs.tables.paper.tables import PaperTable
from jobs.tables.paper.world import World
from p2l_engine.priors.fetch import training_of
from pipeline.output.columns import METRICS

VALUES = Path(__file__).with_name("values.csv")  # table, row, column, metric, value
IN_THE_PAPER = {"lpips_vgg": "lpips"}  # which does not say by which network
OWN_TITLES = {"fid": "FID", "lpips": "LPIPS", "psnr": "PSNR, dB", "seconds": "s"}  # as the paper prints them


@cache
def paper_values() -> Mapping[tuple[str, str, str, str], float]:
    """The paper's figures by table, row, column and metric."""
    with VALUES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(r["table"], r["row"], r["column"], r["metric"]): float(r["value"]) for r in rows}


def markdown(number: str, table: PaperTable, found: Table, world: World, seeds: int) -> str:
    """A heading, what was left out, and for each column every metric, the gains, and the paper's figures."""
    images = max((here.images for here in found.values()), default=0)
    told = f"{images} images a column, {seeds} restorations of each, by {', '.join(_models(table.grid))}."
    lines = [f"# {table.title}", "", told, ""]
    lines += [f"- Left out: {reason}." for reason in table.left_out]
    for column in table.grid.columns:
        own = [
            m for m in OWN_TITLES if any((number, r, column, m) in paper_values() for r in table.grid.rows)
        ]
        lines += ["", f"## {_title(column, world)}", "", *_column(number, table, found, column, own)]
    return "\n".join(lines) + "\n"


def _models(grid: Grid) -> list[str]:
    """The models of the rows, each once, and for how long those that are shipped were trained."""
    column = next(iter(grid.columns))
    models = dict.fromkeys(grid.settings_of(Cell(row, column, 0), "")["model"] for row in grid.rows)
    return [
        model if (steps := training_of(model)) is None else f"{model} ({steps:,} steps of training)"
        for model in models
    ]


def _column(number: str, table: PaperTable, found: Table, column: str, own: Sequence[str]) -> list[str]:
    measured = [m for m in METRICS if any(m.column in f.means for (_, c), f in found.items() if c == column)]
    scores = sorted({name for (_, at), f in found.items() if at == column for name in f.scores})
    heading = ["method", *(metric.heading for metric in measured), *scores, "PSNR gain over", "gain"]
    heading += [f"paper: {OWN_TITLES[metric]}" for metric in own]
    lines = [figures.line(heading), figures.line(["---"] * len(heading))]
    for name, row in table.grid.rows.items():
        if (here := found.get((name, column))) is None:
            continue
        title = f"{name}, {here.errors} errors" if here.errors else name
        cells = [figures.number(metric, here.means.get(metric.column)) for metric in measured]
        cells += [f"{here.scores[name]:.3g}" if name in here.scores else "" for name in scores]
        cells += [row.against or "", figures.gain(PSNR, here.gains.get(PSNR.column))]
        paper = [paper_values().get((number, name, column, metric)) for metric in own]
        lines.append(figures.line([title, *cells, *("" if v is None else f"{v:g}" for v in paper)]))
    return lines


def csv_text(number: str, found: Table) -> str:
    """A line for each figure: row, column, metric, ours, the paper's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "metric", "images", "seeds", "errors", "here", "paper"])
    for (row, column), here in found.items():
        figures_here = {**here.means, **here.scores}
        theirs_alone = set(OWN_TITLES) - {IN_THE_PAPER.get(name, name) for name in figures_here}
        for metric in sorted({*figures_here, *theirs_alone}):
            ours = figures_here.get(metric)
            theirs = paper_values().get((number, row, column, IN_THE_PAPER.get(metric, metric)))
            if ours is not None or theirs is not None:
                counts = (here.images, here.seeds, here.errors)
                writer.writerow(
                    [row, column, metric, *counts, *("" if v is None else f"{v:.6g}" for v in (ours, theirs))]
                )
    return text.getvalue()


def _title(column: str, world: World) -> str:
    """A column's name; with what stands in for its data set."""
    data_set, rest = column.split(", ", 1)
    title = world.titles[data_set]
    return column if title == data_set else f"{title} (for {data_set}), {rest}"
