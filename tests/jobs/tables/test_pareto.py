"""Quality against cost: every way is a job, the curve is that of the best, dearer ways count as dearer."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.benchmark import quality
from jobs.benchmark.__main__ import app
from jobs.tables import pareto
from jobs.tables.grid import Cell
from jobs.tables.pareto import Point
from p2l_engine.priors.architecture import read_architecture
from p2l_engine.priors.load import without_weights
from pipeline.results.compare import PairedMean

POINTS = [
    Point("bicubic", 0.0, {"psnr": 20.0, "ssim": 0.5, "residual": 0.02}, {}),
    Point("few steps", 30.0, {"psnr": 19.0, "ssim": 0.5, "residual": 0.02}, {}),
    Point("more steps", 60.0, {"psnr": 22.0, "ssim": 0.6, "residual": 0.01}, {
        "psnr": PairedMean(4, 23.0, 22.0, -1.0, 0.25)
    }),
    Point("all steps", 90.0, {"psnr": 21.9, "ssim": 0.6, "residual": 0.01}, {}),
]  # fmt: skip


@pytest.mark.parametrize("way", pareto.WAYS)
def test_every_way_is_a_job_for_every_task(way: str) -> None:
    grid = quality.grid(list(quality.TASKS), {way: pareto.WAYS[way]}, "images")
    for task in quality.TASKS:
        grid.job(Cell(way, task, seed=0), "out")


def test_a_thousand_steps_go_no_further_than_twenty() -> None:
    """In the latent and, at the rate that each task has, in the prompt."""
    slowly = pareto.tuned_slowly(quality.TASKS)
    rows = {
        "slowly": replace(pareto.WAYS[pareto.LONG], by_column=slowly),
        pareto.FIRST: pareto.WAYS[pareto.FIRST],
    }
    grid = quality.grid(list(quality.TASKS), rows, "images")
    for task in quality.TASKS:
        slow, first = (grid.job(Cell(row, task, 0), "out").method.model_dump() for row in rows)
        assert slow["prompt_tuning"]["iterations"] == 3 and slow["guidance"]["for_steps"] == first["steps"]
        rates = [solver["prompt_tuning"]["learning_rate"] * solver["steps"] for solver in (slow, first)]
        assert rates[0] == pytest.approx(rates[1])


def test_what_leaves_out_parts_of_a_step_counts_as_cheaper() -> None:
    grid = quality.grid(["SR x4"], pareto.WAYS, "images")
    counted = without_weights(read_architecture(pareto.COUNTED[0]))
    ways = ("bicubic", "LATINO", "K=0, small decoder", "K=0, gradient in z_0", "P2L, K=0")
    costs = [pareto.teraflop(grid, way, counted, 64) for way in ways]
    assert costs[0] == 0
    assert all(one < other for one, other in pairwise(costs))


def test_the_curve_holds_those_than_which_none_is_cheaper_and_better(tmp_path: Path) -> None:
    assert pareto.frontier(POINTS) == ["bicubic", "more steps"]
    lines = pareto.table(POINTS).splitlines()
    assert lines[3].startswith("| few steps | 30 | 19.00 |  | 0.500 |")
    assert lines[4].startswith("| **more steps** | 60 | 22.00 | -1.00 ± 0.25 | 0.600 |")
    pareto.draw(str(tmp_path / "pareto.png"), POINTS)
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
def test_the_table_is_printed_and_the_curve_drawn(tmp_path: Path) -> None:
    command = ["pareto", "--out", str(tmp_path), "--images", "2", "--task", "SR x8", "--way", "bicubic"]
    out = CliRunner().invoke(app, command)
    assert out.exit_code == 0, out.output
    assert "| **bicubic** | 0 | " in out.stdout and "| P2L, K=1 | " in out.stdout.replace("**", "")
    assert (tmp_path / "pareto.png").exists()
