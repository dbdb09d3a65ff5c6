"""The benchmark of speed: what its clock charges to which part, what it compares, and what it prints."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from typer.testing import CliRunner

from jobs.benchmark import clock, speed
from jobs.benchmark.__main__ import app
from jobs.benchmark.clock import Clock, Clocked
from p2l_engine import LatentDiffusion, methods, operators
from p2l_engine.priors.networks.small_decoder import Sketching
from p2l_engine.restore import pose
from p2l_engine.solvers import solve
from pipeline.cost import plan

SIDE = 16
ASKED = speed.Request(
    "tiny", True, sizes=[SIDE], batches=[2], iterations=[1], steps=1, dtype="float32", rounds=1, images=0
)


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(speed.MATRIX_SIDE, "cpu", 32)


@pytest.fixture(scope="module")
def random_model() -> LatentDiffusion:
    return speed.load(ASKED)


def test_every_second_is_charged_to_the_part_that_ran() -> None:
    watch = Clock(iter([10.0, 11.0, 14.0, 20.0]).__next__)
    assert watch.switch("decoder") == clock.REST
    assert watch.switch("U-Net") == "decoder"
    watch.switch(clock.REST)
    assert {part: seconds for part, seconds in watch.seconds.items() if seconds} == {
        clock.REST: 1.0,
        "decoder": 3.0,
        "U-Net": 6.0,
    }


def test_each_pass_of_p2l_is_charged_to_its_part_and_changes_no_number(tiny_model: LatentDiffusion) -> None:
    """By a clock that ticks when it is read: a part has as many ticks as it had passes."""
    solver = methods.build("p2l", steps=2, prompt_tuning={"iterations": 3}, projection={"every": 2})
    A, y = operators.build("super_resolution", factor=4), torch.rand(2, 3, SIDE // 4, SIDE // 4)
    watch = Clock(count().__next__)
    prior: Any = Clocked(tiny_model, clock.PRIOR, watch)
    problem = pose(tiny_model, A, y)
    operator: Any = Clocked(problem.A, clock.OPERATOR, watch)
    timed = solve(prior, solver, replace(problem, A=operator), None)
    watch.switch(clock.REST)
    plain = solve(tiny_model, solver, pose(tiny_model, A, y), None)
    torch.testing.assert_close(timed.images, plain.images, rtol=0, atol=1e-4)
    ticks = watch.seconds
    tuning, step, projection = 2 * 3, 2, 1
    assert ticks["U-Net"] == tuning + step
    assert ticks["U-Net backward to the embedding"] == tuning
    assert ticks["U-Net backward to z"] == step
    assert ticks["decoder"] == 2 * tuning + step + 1  # the image at the end
    assert ticks["decoder backward"] == 2 * tuning + step
    assert ticks["encoder"] == projection
    assert ticks["operator"] == 2 * (2 * tuning + step) + projection


def test_pairs_alternate_and_give_the_median_with_the_spread() -> None:
    order: list[str] = []
    readings = iter([0.0, 2.0, 2.0, 3.0, 3.0, 9.0, 9.0, 11.0, 11.0, 15.0, 15.0, 19.0])
    variants = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = clock.timed(variants, 3, readings.__next__)
    assert "".join(order) == "ababab"
    assert seconds == {"a": [2.0, 6.0, 4.0], "b": [1.0, 2.0, 4.0]}
    assert str(clock.ratio(seconds["a"], seconds["b"])) == "2.00 (1.00 to 3.00)"


def test_a_setting_has_the_operations_of_its_job_and_shares_that_make_up_the_whole(
    random_model: LatentDiffusion,
) -> None:
    cell = speed.measure(ASKED, random_model, SIDE, batch=2, iterations=1)
    whole = plan.count(ASKED.job(SIDE, 2, 1))
    assert (cell.teraflop, cell.peak_bytes) == (whole.teraflop, whole.peak_bytes)
    assert sum(cell.shares.values()) == pytest.approx(1)
    assert all(cell.shares[part] > 0 for part in clock.PARTS if part != "encoder")  # no projection yet
    assert cell.against_alone is not None and 0 <= cell.apart < 1


def test_images_that_differ_from_those_restored_alone_end_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, random_model: LatentDiffusion
) -> None:
    monkeypatch.setitem(speed.MOST_APART, torch.float32, -1.0)
    with pytest.raises(RuntimeError, match="images of a batch of 2 differ by"):
        speed.measure(ASKED, random_model, SIDE, batch=2, iterations=0)


def test_the_parts_are_those_of_what_the_job_computes(
    monkeypatch: pytest.MonkeyPatch, tiny_model: LatentDiffusion
) -> None:
    """With the small decoder where the method has one."""
    job = replace(ASKED, preset="balanced").job(SIDE, 1, None, 2)
    work, sketched = speed.Work.of(tiny_model, job, tiny_model.embed_prompts([""])), count()
    genuine = Sketching.sketch
    monkeypatch.setattr(Sketching, "sketch", lambda self, z: next(sketched) * 0 + genuine(self, z))
    work.run()
    of_run = next(sketched)
    work.shares()
    assert 0 < of_run == next(sketched) - of_run - 1


@pytest.mark.usefixtures("without_a_compiler")
def test_compiled_blocks_are_timed_beside_the_same_ones_as_they_are() -> None:
    """By what torch records of them, in a method with a preset's own K."""
    asked = replace(ASKED, preset="balanced", compile=True, batches=[1], iterations=[None])
    cell = speed.measure(asked, speed.load(asked), SIDE, batch=1, iterations=None)
    assert cell.iterations == 1 and cell.against_plain is not None and cell.against_alone is None
    assert 0 < counters["frames"]["ok"] == counters["frames"]["total"]


def test_the_literal_loop_restores_the_same_images() -> None:
    """In float64, with prompt tuning and projections; diffusers keeps its schedule in float32."""
    asked = replace(ASKED, random_weights=False, literal=True, dtype="float64", steps=3)
    cell = speed.measure(asked, speed.load(asked), SIDE, batch=2, iterations=1)
    assert cell.against_literal is not None and cell.apart < 1e-3


def test_a_row_is_told_when_its_setting_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def measured(*given: Any) -> speed.Cell:
        done.append(given)
        return speed.Cell(SIDE, 1, 0, 1.0, 1.0, 1.0, dict.fromkeys(clock.PARTS, 0.0), None, None, None, 0.0)

    monkeypatch.setattr(speed, "measure", measured)
    asked = replace(ASKED, method="ldps", batches=[1], iterations=[None, None])
    lines = speed.run(asked)
    machine = next(lines)
    assert f"{clock.processor()}, threads: " in machine and "; ldps, tiny; float32; " in machine
    assert next(told for told in lines if told.startswith("| 16 |")) and len(done) == 1


def test_a_literal_loop_is_asked_for_where_there_is_one() -> None:
    out = CliRunner().invoke(app, ["speed", "--literal", "--method", "ldps"])
    assert out.exit_code == 2 and "allowed: with p2l, the model and preset tiny" in out.output


@pytest.mark.usefixtures("ray_cluster")
def test_the_tables_are_printed_with_a_run_of_the_pipeline() -> None:
    command = ["speed", "--size", str(SIDE), "--batch", "2", "--k", "0", "--steps", "1", "--rounds", "1"]
    out = CliRunner().invoke(app, [*command, "--images", "2"])
    assert out.exit_code == 0, out.output
    for begun in ("| 16 | 0 | 2 | ", "| 2 images, 2 at a time, K = 0 |", "| `restore` in the actor | "):
        assert begun in out.stdout
