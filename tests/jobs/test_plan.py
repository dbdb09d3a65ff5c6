"""`p2l plan` says what it measured, what it extrapolated, and which is which."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from typer.testing import CliRunner

from jobs.cli import app
from p2l_engine import LatentDiffusion, load_model, methods, operators, restore
from p2l_engine.counting import OperationCounter
from p2l_engine.methods import SOLVERS
from pipeline.accelerators import datasheet_tflops
from pipeline.config import load_config
from pipeline.cost.machines import MachineEstimate, cheapest, machine_estimates, with_preemptions
from pipeline.cost.plan import TYPICAL_SHARE, Measurement, count, estimate, measure, measure_steps
from pipeline.prices import SHIPPED, Prices, load_prices
from tests.pipeline.small_jobs import png, write_tar

PRICES = """
date: 2026-01-02
source: a test
region: here-1
preemptions_per_hour: 0.5
start_minutes: 6
machines:
  small: {accelerator: t4, count: 1, memory_gib: 16, on_demand: 0.5, spot: 0.2}
  four: {accelerator: a100, count: 4, memory_gib: 40, on_demand: 16}
"""


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LatentDiffusion:
    return load_model(str(model_folder))


def measured(model: LatentDiffusion, **settings: Any) -> Measurement:
    A = operators.build("super_resolution", factor=4)
    method = methods.build("p2l", **settings)
    return measure_steps(model, A, torch.zeros(1, 3, 4, 4), method)


@pytest.mark.parametrize("method", ["adjoint", "bicubic", "tv"])
def test_a_method_without_a_network_costs_no_product(method: str) -> None:
    config = {"input": "a", "output": "b", "model": "tiny", "method": method}
    found = count(load_config({**config, "operator": {"name": "super_resolution", "factor": 4}}))
    assert (found.nfe, found.teraflop) == (0, 0)


def test_operations_of_products_are_counted_forward_and_backward() -> None:
    a = torch.ones(8, 16, requires_grad=True)
    with OperationCounter() as counter:
        torch.autograd.grad((a @ torch.ones(16, 4)).sum(), a)
    assert counter.flop == 2 * (2 * 8 * 16 * 4)


def test_prompt_tuning_costs_operations_and_network_calls(model: LatentDiffusion) -> None:
    tuned = measured(model, steps=100, prompt_tuning={"iterations": 1})
    plain = measured(model, steps=100, prompt_tuning=None)
    assert tuned.nfe == 200 and plain.nfe == 100
    assert tuned.teraflop > 1.5 * plain.teraflop > 0


def test_the_projection_counts_as_often_as_the_method_does_it(model: LatentDiffusion) -> None:
    def flop(every: int) -> float:
        return measured(model, steps=100, prompt_tuning=None, projection={"every": every}).teraflop

    never = measured(model, steps=100, prompt_tuning=None, projection=None).teraflop
    assert math.isclose(flop(4) - never, 25 * (flop(1) - never) / 100, rel_tol=1e-9)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_the_planned_network_calls_are_those_that_a_run_counts(
    model: LatentDiffusion, pixel_folder: Path, name: str
) -> None:
    settings: dict[str, Any] = {"steps": 5} if "steps" in SOLVERS[name].model_fields else {}
    settings |= {"class_label": 1} if SOLVERS[name].prior == "pixel" else {}
    if name == "p2l":
        settings |= {"projection": {"every": 2}, "prompt_tuning": {"iterations": 2}, "samples": 2}
    if name == "resample":
        few = {"iterations": 2}
        settings |= {"every": 2, "pixel": few, "latent": few}
    if name == "latino_pro":
        settings |= {"prompt_ascent": {"rounds": 2}}
    solver = methods.build(name, **settings)
    A, y = operators.build("super_resolution", factor=4), torch.zeros(2, 3, 4, 4)
    prior = {None: None, "latent": model, "pixel": load_model(str(pixel_folder))}[solver.prior]
    assert measure_steps(prior, A, y, solver).nfe == restore(prior, A, y, solver).nfe


@pytest.mark.usefixtures("without_a_compiler")
def test_the_blocks_that_are_measured_are_the_compiled_ones_and_count_as_they_are() -> None:
    """torch compiles nothing of what it first saw being counted."""
    A, y, solver = (
        operators.build("super_resolution", factor=4),
        torch.zeros(1, 3, 4, 4),
        methods.build("ldps"),
    )
    compiled = measure_steps(load_model("tiny", compile=True), A, y, solver, compiled=True)
    assert 0 < counters["frames"]["ok"] == counters["frames"]["total"]
    assert compiled.teraflop == measure_steps(load_model("tiny"), A, y, solver).teraflop


@pytest.mark.parametrize("method", ["p2l", "psld", "latino_pro", "dds"])
def test_what_is_counted_without_weights_is_what_real_steps_compute(method: str, pixel_folder: Path) -> None:
    pixel = SOLVERS[method].prior == "pixel"
    job = load_config(
        {
            "input": "in",
            "output": "out",
            "model": str(pixel_folder) if pixel else "tiny",
            "size": [24, 40],  # no multiples of what the U-Net takes
            "operator": {"name": "super_resolution", "factor": 8},
            "method": {"name": method, "preset": None, "steps": 10} | ({"class_label": 1} if pixel else {}),
        }
    )
    counted, real = count(job), measure(job)
    assert counted.teraflop == pytest.approx(real.teraflop, rel=0.01) and real.teraflop > 0
    assert (counted.nfe, counted.image_shape) == (real.nfe, (3, 24, 40)) == (real.nfe, real.image_shape)
    assert counted.seconds is None and real.seconds


def test_stable_diffusion_is_counted_without_its_weights() -> None:
    found = count(load_config({"input": "in", "output": "out", "method": {"name": "ldps", "steps": 1000}}))
    assert (found.nfe, found.image_shape) == (1000, (3, 512, 512))
    assert found.teraflop == pytest.approx(6873, rel=0.01)
    weights = 4 * (859_520_964 + 83_653_863 + 123_060_480)
    assert found.peak_bytes - weights == pytest.approx(3.45 * 2**30, rel=0.01)
    assert found.least_bytes is not None
    assert found.least_bytes - weights == pytest.approx(2.13 * 2**30, rel=0.01)
    assert found.bytes_on("a100") == found.peak_bytes / 2 and found.bytes_on("t4") == found.peak_bytes


def test_the_rate_is_that_of_the_dtype_that_the_job_takes_there() -> None:
    assert [datasheet_tflops("a100", dtype) for dtype in ("auto", "bfloat16", "float16")] == [312] * 3
    assert [datasheet_tflops("a100", dtype) for dtype in ("tf32", "float32")] == [156, 19.5]
    assert [datasheet_tflops("t4", dtype) for dtype in ("float16", "auto", "bfloat16", "tf32")] == [
        *(65, 8.1, 8.1, 8.1)
    ]


def test_an_accelerator_that_is_not_here_is_extrapolated_from_its_datasheet(model: LatentDiffusion) -> None:
    found = measured(model, steps=100, prompt_tuning=None)
    here, spot = estimate(found, 3600, {"a100-spot": 2.0})
    assert here.dtype == "float32" and spot.dtype == "bfloat16"
    assert here.measured and here.seconds == (found.seconds, found.seconds) and here.dollars is None
    least = found.teraflop / 312
    assert not spot.measured
    assert spot.hours == pytest.approx((least, least / TYPICAL_SHARE))
    assert spot.dollars == pytest.approx((2 * least, 2 * least / TYPICAL_SHARE))


def test_the_command_prints_hours_memory_calls_and_dollars(
    model_folder: Path, captioner_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    arguments = ["plan", "sr8", "--images", "1000", "--price", "here=0.5", "--price", "a100=3.67"]
    arguments += ["--prices", str(tmp_path / "prices.yaml")]
    small = [f"model={model_folder}", "model.dtype=float32", "size=32", "method.prompt_tuning=null"]
    small.append(f"caption.model={captioner_folder}")
    result = CliRunner().invoke(app, arguments + [word for text in small for word in ("--set", text)])
    assert result.exit_code == 0, result.output
    assert "model.dtype is float32, of which an A100 does 19.5 TFLOP/s" in result.stderr
    for word in ("hours", "dollars", "peak memory", "NFE", "measured", "extrapolated", "datasheet"):
        assert word in result.output
    for word in (
        "2026-01-02",
        "a test",
        "small-spot",
        "0.5 an hour",
        "8 images",
        "6 min",
        "cheapest for this job",
        f"captions come first: {captioner_folder} on each original, a stage of its own",
    ):
        assert word in result.output


def test_the_command_plans_for_the_rows_and_tells_what_is_left_out_of_them(tmp_path: Path) -> None:
    members = {"x.png": png(1), "y.png": png(2), "y.json": b"{}"}
    write_tar(tmp_path / "in" / "a.tar", members)
    (tmp_path / "in" / "notes.json").write_text("")
    small = ["model=tiny", "method=adjoint", f"input={tmp_path / 'in'}"]
    arguments = ["plan", "sr8", "--price", "a100=1", *(word for text in small for word in ("--set", text))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "\n2 images on one worker" in result.stdout
    assert result.stderr.splitlines() == [
        "1 left out, text: notes.json",
        "1 left out, members of a tar that end in .json: y.json",
    ]


@pytest.mark.parametrize("price", ["a100=-3", "a100=nan", "a100", "a100=much"])
def test_a_price_that_is_none_is_refused(price: str) -> None:
    result = CliRunner().invoke(app, ["plan", "sr8", "--images", "10", "--price", price])
    assert result.exit_code == 2
    assert f"--price {price}: got" in result.stderr and "allowed: name=dollars per hour" in result.stderr


def a_job(seconds_on_a100: float = 36, gib: float = 10) -> Measurement:
    """A measurement of a job in float16 whose least time on an A100 is as given."""
    teraflop = seconds_on_a100 * 312
    return Measurement(
        *("CPU", (3, 512, 512), 1, 1000, 900.0, teraflop, 2000, int(gib * 2**30)),
        item_bytes=2,
        dtype="float16",
    )


@pytest.fixture
def price_file(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    return path


def on(machine: str, prices: Prices, measured: Measurement, commit: int = 10) -> MachineEstimate:
    return next(m for m in machine_estimates(measured, 1000, commit, prices) if m.machine == machine)


def test_a_machine_of_four_accelerators_takes_a_quarter_of_the_hours(price_file: Path) -> None:
    four = on("four", load_prices(str(price_file)), a_job())
    assert four.hours == pytest.approx((2.5, 2.5 / TYPICAL_SHARE))
    assert four.dollars == pytest.approx((40, 40 / TYPICAL_SHARE))
    assert four.preemptions == four.lost == (0, 0)


def test_a_spot_machine_pays_for_half_a_commit_and_a_start_at_each_preemption(price_file: Path) -> None:
    prices = load_prices(str(price_file))
    spot, bought = on("small-spot", prices, a_job()), on("small", prices, a_job())
    commit_hours = 10 * a_job().teraflop / 65 / 3600
    assert spot.preemptions[0] == pytest.approx(0.5 * spot.hours[0])
    wasted = spot.hours[0] - bought.hours[0]
    assert wasted == pytest.approx(spot.preemptions[0] * (commit_hours / 2 + 0.1))
    assert spot.lost[0] == pytest.approx(0.2 * wasted)
    assert spot.dollars[0] == pytest.approx(0.2 * spot.hours[0])


@pytest.mark.parametrize(("rate", "commit", "start"), [(0.1, 0.5, 0.1), (0.5, 0.1, 0.02), (0.02, 2.0, 0.5)])
def test_the_hours_lost_are_those_of_simulated_preemptions(rate: float, commit: float, start: float) -> None:
    """Commits of fixed length on machines that are taken at exponential times, 2000 hours of work."""
    random, hours = np.random.default_rng(0), 0.0
    todo = round(20_000 / commit)
    taken_after = random.exponential(1 / rate)
    for _ in range(todo):
        while taken_after < commit:
            hours += taken_after + start
            taken_after = random.exponential(1 / rate)
        hours += commit
        taken_after -= commit
    assert with_preemptions(todo * commit, commit, rate, start) == pytest.approx(hours, rel=0.01)


def test_the_cheapest_is_one_that_the_job_fits_and_ends_on(price_file: Path) -> None:
    prices = load_prices(str(price_file))

    def best(measured: Measurement, commit: int = 10) -> str | None:
        found = cheapest(machine_estimates(measured, 1000, commit, prices))
        return found.machine if found else None

    assert best(a_job()) == "small-spot"
    assert best(a_job(), commit=1000) == "small", "a commit of days never ends between preemptions"
    assert best(a_job(gib=30)) == "four"
    assert best(a_job(gib=50)) is None


def test_the_shipped_prices_have_a_date_a_place_and_both_kinds() -> None:
    prices = load_prices()
    assert prices.date.year >= 2025 and prices.region and prices.source
    assert all(machine.spot and machine.spot < machine.on_demand for machine in prices.machines.values())
    assert prices.of_a_worker()["a2-highgpu-1g-spot"] == prices.machines["a2-highgpu-1g"].spot


def test_mistakes_in_a_price_file_are_all_named(price_file: Path) -> None:
    price_file.write_text(PRICES.replace("t4", "t5").replace("0.2}", "-1}").replace("region: here-1\n", ""))
    result = CliRunner().invoke(app, ["plan", "sr8", "--images", "1", "--prices", str(price_file)])
    assert result.exit_code == 2
    for expected in (
        "machines.small.accelerator",
        "allowed: t4",
        "machines.small.spot",
        "region",
        str(SHIPPED),
    ):
        assert expected in result.output, result.output
    price_file.write_text(PRICES + "region: there-1\n")
    result = CliRunner().invoke(app, ["plan", "sr8", "--images", "1", "--prices", str(price_file)])
    assert result.exit_code == 2 and "region stands twice, in lines 4 and 10" in result.output
    result = CliRunner().invoke(app, ["plan", "sr8", "--images", "1", "--prices", "none.yaml"])
    assert result.exit_code == 2 and "none.yaml: there is no such file" in result.output
