"""The benchmark of methods: what it computes, saves, and prints."""

import csv
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jobs.benchmark import cells, quality, scale, store
from jobs.benchmark.__main__ import app
from p2l_engine import LatentDiffusion
from pipeline.config import load_config
from pipeline.stores import storage_options

PUBLISHED = Path(__file__).resolve().parents[3] / "docs" / "quality.csv"


def test_reported_images_are_not_those_that_settings_were_tuned_on() -> None:
    reported, tuned_on = cells.held_out(8), cells.held_out(8, cells.TUNED_ON)
    distances = torch.cdist(reported.x.flatten(1), tuned_on.x.flatten(1))
    assert distances.min() > 1
    assert not {key.split("-")[0] for key in reported.keys[1::2]} & {
        key.split("-")[0] for key in tuned_on.keys[1::2]
    }


def test_a_finished_cell_is_not_computed_again(tmp_path: Path) -> None:
    records = tmp_path / "quality.csv"
    command = ["quality", "--records", str(records), "--images", "2", "--steps", "2"]
    command += ["--task", "SR x8", "--method", "adjoint", "--method", "LDPS"]
    for seeds in ("1", "2", "2"):
        out = CliRunner().invoke(app, [*command, "--seeds", seeds])
        assert out.exit_code == 0, out.output
    with records.open(newline="") as file:
        rows = [(r["method"], r["seed"], r["key"]) for r in csv.DictReader(file)]
    assert len(rows) == len(set(rows)) == 2 * 2 * 2
    assert out.stdout.startswith("| method")  # the third run found everything done
    assert "| SR x8 | LDPS |" in out.stdout and "| 2 x 2 |" in out.stdout


def test_the_difference_is_paired_by_image_after_the_mean_over_seeds() -> None:
    base = {"task": "SR x8", "ssim": "0.5", "residual": "0.1"}
    figures = {"adjoint": {("a", 0): 10, ("a", 1): 12, ("b", 0): 20, ("b", 1): 22}}
    figures["LDPS"] = {("a", 0): 12, ("a", 1): 12, ("b", 0): 24, ("b", 1): 24}
    records = [
        base | {"method": method, "key": key, "seed": str(seed), "psnr": str(psnr), "seconds": str(3 + seed)}
        for method, by_image in figures.items()
        for (key, seed), psnr in by_image.items()
    ]
    table = quality.table(records, ["SR x8"], ["adjoint", "LDPS"])
    row = "| LDPS | 18.00 | 0.500 | 0.100 | 3.00 | adjoint | +2.00 ± 1.00 | +0.000 ± 0.000 | 2 x 2 |"
    assert row in table
    assert "| LDPS | adjoint | 18.00 (+2.00 ± 1.00) |" in quality.overview(records, ["SR x8"], ["LDPS"])
    lone = records[-1] | {"key": "a", "seed": "2", "psnr": "99"}  # a seed that adjoint lacks
    assert "+2.00 ± 1.00" in quality.overview([*records, lone], ["SR x8"], ["LDPS"])


def test_the_mean_of_samples_is_compared_with_plain_enlargement() -> None:
    command = ["average", "--images", "2", "--samples", "3", "--steps", "2", "--method", "LDPS"]
    out = CliRunner().invoke(app, command)
    assert out.exit_code == 0, out.output
    assert [line.split(" of LDPS")[0] for line in out.stdout.splitlines()[2:]] == ["| 1", "| 2", "| 3"]


@pytest.mark.parametrize("row", cells.ROWS)
@pytest.mark.parametrize("task", cells.TASKS)
def test_every_row_is_a_job_for_every_task(row: str, task: str) -> None:
    """So that a user who writes these two blocks gets what the table shows."""
    blocks = {"operator": cells.TASKS[task], "method": cells.ROWS[row].method}
    job = load_config({"input": "in", "output": "out", "model": "tiny", "size": 64, **blocks})
    assert job.method == cells.solver_of(cells.ROWS[row].method, task)


@pytest.mark.parametrize(
    ("row", "task"), [("P2L, K=1", "SR x8"), ("P2L-Adam, K=1", "SR x4"), ("total variation", "motion blur")]
)
def test_a_row_s_job_gives_the_published_figures(tiny_model: LatentDiffusion, row: str, task: str) -> None:
    """Of its first image; to 0.1 dB, for processors of several types round differently."""
    images = cells.held_out(2)
    one = cells.Images(images.x[:1], images.keys[:1], images.captions[:1])
    (found,) = cells.run_cell(tiny_model, cells.ROWS[row], task, one, seed=0, steps=None)
    (published,) = (
        float(record["psnr"])
        for record in quality.read(PUBLISHED)
        if (record["task"], record["method"], record["seed"], record["key"]) == (task, row, "0", one.keys[0])
    )
    assert found["psnr"] == pytest.approx(published, abs=0.1)


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
