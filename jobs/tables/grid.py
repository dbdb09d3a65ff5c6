"""A table before it is computed: rows, columns, and the ordinary job that each of their cells is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from p2l_engine import methods
from p2l_engine.priors.fetch import CAPTIONER
from pipeline.cluster.session import ray_session
from pipeline.config import JobConfig, load_config
from pipeline.output.folder import SUMMARY
from pipeline.run.run import run as restore
from pipeline.scores.request import request
from pipeline.scores.score import score as run_scores
from pipeline.scores.score import tasks
from pipeline.stores import storage

Settings = Mapping[str, Any]
# Each image's own caption instead of the empty prompt.
PROMPTED: Settings = {"columns": {"prompt": "caption"}}
# What the shipped captioner makes of the measurement, as the shipped model knows captions.
CAPTIONED: Settings = {"caption": {"model": CAPTIONER, "from": "measurement", "template": "{caption}"}}


@dataclass(frozen=True)
class Part:
    """A row or a column of a table.

    settings: its share of the cells' jobs. against: the row that it is compared with. by_column: what of a
    row's settings is another one in each column.
    """

    settings: Settings
    against: str | None = None
    by_column: Mapping[str, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """Where a row and a column meet, with one seed."""

    row: str
    column: str
    seed: int

    def folder(self, out: str) -> str:
        """Its output folder below that of the table."""
        return storage.join(out, slug(self.column), slug(self.row), f"seed-{self.seed}")


@dataclass(frozen=True)
class Grid:
    """rows, columns: by the names that the table shows. settings: what all jobs share."""

    rows: Mapping[str, Part]
    columns: Mapping[str, Part]
    settings: Settings = field(default_factory=dict)

    def cells(self, seeds: int) -> Iterator[Cell]:
        """Seed by seed, so that an interrupted table has every method before it has every seed."""
        for seed in range(seeds):
            for row in self.rows:
                for column in self.columns:
                    yield Cell(row, column, seed)

    def job(self, cell: Cell, out: str) -> JobConfig:
        """The job of a cell. Raises ConfigError where it cannot run here."""
        return load_config(self.settings_of(cell, out))

    def settings_of(self, cell: Cell, out: str) -> dict[str, Any]:
        """What a job file of a cell would hold."""
        row, column = self.rows[cell.row], self.columns[cell.column]
        parts = (self.settings, column.settings, row.settings, row.by_column.get(cell.column, {}))
        settings: dict[str, Any] = {"seed": cell.seed, "output": cell.folder(out)}
        for part in parts:
            settings = merged(settings, part)
        method = settings["method"]
        if not methods.has_presets(method["name"]):  # it has no steps either
            method = {name: value for name, value in method.items() if name not in ("preset", "steps")}
        return settings | {"method": method}


def run(grid: Grid, out: str, seeds: int) -> Iterator[str]:
    """Restores what is missing of each cell; a line on each that had something to do.

    All jobs are read before the first runs, so that a mistake in one of them costs nothing. Raises
    ConfigError for a cell that was begun with other settings.
    """
    jobs = {cell: grid.job(cell, out) for cell in grid.cells(seeds)}
    left = [cell for cell, job in jobs.items() if not storage.exists(storage.join(job.output, SUMMARY))]
    with ray_session() if left else nullcontext():
        for cell, job in jobs.items():
            done = restore(job)
            if cell in left:
                yield (
                    f"{left.index(cell) + 1}/{len(left)}  {cell.column}, {cell.row}, seed {cell.seed}: "
                    f"{done.ok} of {done.rows} rows in {done.seconds:.0f} s"
                )


def score(grid: Grid, out: str, seeds: int) -> Iterator[str]:
    """Scores what is not scored yet, by all networks at hand; a line on each cell, and on what is lacking."""
    asked = {cell: request(cell.folder(out), (), None, None) for cell in grid.cells(seeds)}
    left = [cell for cell, one in asked.items() if tasks(one, one.output.restored())]
    for sentence in dict.fromkeys(sentence for one in asked.values() for sentence in one.lacking):
        yield f"left out: {sentence}"
    with ray_session() if left else nullcontext():
        for number, cell in enumerate(left, 1):
            run_scores(asked[cell], lambda line: None)
            yield f"{number}/{len(left)}  scored {cell.column}, {cell.row}, seed {cell.seed}"


def merged(below: Settings, above: Settings) -> dict[str, Any]:
    """Settings over others, blocks key by key."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            value = merged(inner, value)
        result[key] = value
    return result


def slug(name: str) -> str:
    """A name as part of a path: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("%", "percent")).strip("-")
