"""What a table takes, before it is computed: operations counted, hours and dollars extrapolated from them."""

from __future__ import annotations

from functools import cache
from statistics import fmean

from jobs.tables import counted
from jobs.tables.figures import line
from jobs.tables.grid import Cell
from jobs.tables.paper.tables import PaperTable
from p2l_engine.priors.architecture import read_architecture
from p2l_engine.priors.load import Model, without_weights
from pipeline.accelerators import dtype_on
from pipeline.config import JobConfig
from pipeline.cost.plan import TYPICAL_SHARE, extrapolated_seconds
from pipeline.prices import SPOT, load_prices

MACHINE = "a2-highgpu-1g"  # of one A100


def priced(table: PaperTable, images: int, seeds: int) -> str:
    """Markdown: of each row TFLOP an image, the mean over the columns, and hours and dollars of all images.

    Rows without a network take no GPU. Raises what reading a model's architecture raises.
    """
    grid, prices = table.grid, load_prices()
    accelerator, usd = prices.machines[MACHINE].accelerator, prices.of_a_worker()[MACHINE + SPOT]
    jobs = {row: [grid.job(Cell(row, column, 0), "planned") for column in grid.columns] for row in grid.rows}
    teraflop = {row: _mean_teraflop(of_row) for row, of_row in jobs.items()}
    dtype = dtype_on(accelerator, next(iter(jobs.values()))[0].model.dtype)
    total = images * seeds * len(grid.columns)
    lines = [line(["method", "TFLOP an image", "A100 hours", "dollars"]), line(["---", *["---:"] * 3])]
    for name, of_row in (teraflop | {"all": sum(teraflop.values())}).items():
        least, typical = (s / 3600 for s in extrapolated_seconds(of_row * total, accelerator, dtype))
        spans = [f"{_shown(least * of_an_hour)} - {_shown(typical * of_an_hour)}" for of_an_hour in (1, usd)]
        lines.append(line([name, _shown(of_row), *(spans if of_row else ("", ""))]))
    said = (
        f"{images} images x {seeds} seeds in each of {len(grid.columns)} columns, in {dtype}: counted "
        f"operations over an A100's datasheet rate, all of it to {TYPICAL_SHARE:.0%} of it, at ${usd:g} an "
        f"hour ({MACHINE}{SPOT}, {prices.date}); not a measurement"
    )
    left_out = [f"- left out: {one}" for one in table.left_out]
    return "\n".join([f"# {table.title}", "", said, "", *lines, *left_out])


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def _mean_teraflop(jobs: list[JobConfig]) -> float:
    return fmean(counted.teraflop(_without_weights(job.model.id), job.method, job.sides) for job in jobs)


@cache
def _without_weights(model: str) -> Model:
    return without_weights(read_architecture(model))
