"""What the pipeline's overhead is measured with."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
import torch

from jobs.benchmark.overhead import busy, rows
from jobs.benchmark.overhead.busy import Sleeper
from p2l_engine import operators, restore


def test_the_sleeper_takes_its_time_and_restores_as_the_adjoint_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(busy, "time", types.SimpleNamespace(time=lambda: now[0], sleep=sleep))
    A = operators.build("super_resolution", factor=4, image_shape=(3, 16, 16))
    y = torch.rand(2, 3, 4, 4)
    found = restore(None, A, y, Sleeper(seconds=0.2, log=str(tmp_path / "log")))
    assert torch.equal(found.images, restore(None, A, y, "adjoint").images)
    ((start, end),) = (json.loads(text) for text in (tmp_path / "log").read_text().splitlines())
    assert (start, end) == (1000.0, pytest.approx(1000.2, abs=1e-6))


def test_the_parts_of_a_row_are_told_with_the_whole() -> None:
    head, _, *lines = rows.run(64, 16).splitlines()
    assert "64 rows of 16x16" in head
    figures = {name: float(value) for _, name, value, _ in (text.split("|") for text in lines)}
    assert len(figures) == 10 and figures[" SSIM "] > 0 and figures[" all of these, by the actor's code "] > 0


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_of_a_solver_that_has_no_name_in_a_job_file_is_measured() -> None:
    """Its figures are those of four micro-batches of a tenth of a second and the waits between them."""
    told = busy.run(seconds=0.1, batch=1, count=4, side=64)
    cells = [[cell.strip() for cell in text.split("|")[1:3]] for text in told.splitlines()[2:]]
    (_, of), (_, whole), (_, median), (_, waits), (_, took) = cells
    assert of == "4, 1, 64"
    usual, most = map(float, waits.split(", "))
    asked, each = map(float, took.split(", "))
    assert asked == 0.1 <= each and -0.001 <= usual <= most
    assert _share(median) == pytest.approx(0.1 / (0.1 + usual), abs=0.01)
    assert 0 < _share(whole) <= 0.4 / (0.4 + most) + 0.01


def _share(percent: str) -> float:
    return float(percent.removesuffix("%")) / 100
