"""The benchmark of methods: what it computes, saves, and prints."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.benchmark import quality, scale, store, tune
from jobs.benchmark.__main__ import app
from jobs.tables import held_out
from jobs.tables.grid import Cell
from p2l_engine import operators
from pipeline.input.rows import InputRow
from pipeline.pictures.images import encode_png
from pipeline.stores import storage_options
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer

PUBLISHED = Path(__file__).resolve().parents[3] / "docs" / "quality.csv"


@pytest.mark.parametrize("row", quality.ROWS)
@pytest.mark.parametrize("task", quality.TASKS)
def test_every_row_is_a_job_for_every_task(row: str, task: str) -> None:
    """So that a user who writes these two blocks gets what the table shows."""
    grid = quality.grid([task], {row: quality.ROWS[row]}, "images")
    job = grid.job(Cell(row, task, seed=0), "out")
    assert job.operator == operators.from_block(quality.TASKS[task])
    assert job.method.name == quality.ROWS[row].settings["method"]["name"]


@pytest.mark.parametrize(
    ("row", "task"), [("P2L, K=1", "SR x8"), ("P2L, K=0", "SR x4"), ("total variation", "motion blur")]
)
def test_a_row_s_job_gives_the_published_figures(row: str, task: str) -> None:
    """Of its first image; to 0.1 dB, for processors of several types round differently."""
    grid = quality.grid([task], {row: quality.ROWS[row]}, "images")
    key, pixels, _ = held_out.photographs(1)[0]
    restorer = Restorer(grid.job(Cell(row, task, seed=0), "out"), ActorOptions("cpu", 1, 1, tune=False))
    (found,) = restorer([InputRow(key, "held_out", image=encode_png(pixels))])
    with PUBLISHED.open(newline="") as file:
        (published,) = (
            float(record["psnr"])
            for record in csv.DictReader(file)
            if (record["task"], record["method"], record["seed"], record["key"]) == (task, row, "0", key)
        )
    assert found["psnr"] == pytest.approx(published, abs=0.1)


@pytest.mark.usefixtures("ray_cluster")
def test_the_table_of_methods_is_printed_with_the_figures_of_every_image_beside_it(tmp_path: Path) -> None:
    command = ["quality", "--out", str(tmp_path), "--images", "2", "--seeds", "1", "--task", "SR x8"]
    out = CliRunner().invoke(app, [*command, "--method", "adjoint", "--method", "total variation"])
    assert out.exit_code == 0, out.output
    assert out.stdout.count("| adjoint | total variation | ") == 2 and "| 2 x 1 |" in out.stdout
    for kind, first in (("photographs", "basketball-court1-b-0"), ("scenes", "scene-0")):
        lines = (tmp_path / kind / "quality.csv").read_text().splitlines()
        assert len(lines) == 1 + 2 * 2 and f",{first},ok," in lines[1]


def test_points_of_a_grid_are_compared_with_the_first() -> None:
    first, *others = tune.rows("tv").values()
    assert first.against is None
    assert {row.against for row in others} == {"tv {}"} and len(others) == len(tune.TV_WEIGHT)


@pytest.mark.slow
def test_the_scale_benchmark_kills_resumes_and_finishes_a_run(tmp_path: Path) -> None:
    table = scale.run(2000, 100, None, tmp_path)
    assert "| rows, shards | 2,000, 20 |" in table and "driver, MiB, most" in table
    assert not list(tmp_path.iterdir())


def test_the_store_benchmark_finds_its_output_sound_and_counts_requests() -> None:
    """A footer is found by three requests at most; a sample asks for less than every row does."""
    table = store.run(rows=60, shard_rows=20, sample=1, in_full=True)
    storage_options.configure({})
    heading, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    requests = {line[0]: int(line[1]) for line in lines}
    assert heading[0] == "60 rows in 3 shards"
    assert 3 < requests["`--retry-errors`: which shards"] <= 9
    assert 9 < requests["`verify --sample 1`"] < requests["`verify`"]
