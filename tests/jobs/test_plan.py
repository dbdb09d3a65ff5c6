"""`p2l plan` says what it measured, what it extrapolated, and which is which."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from jobs.cli import app
from p2l_engine import LatentDiffusion, load_model, methods, operators
from pipeline.plan import (
    DATASHEET_TFLOPS,
    TYPICAL_SHARE,
    Measurement,
    OperationCounter,
    estimate,
    measure_steps,
)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LatentDiffusion:
    return load_model(str(model_folder))


def measured(model: LatentDiffusion, **settings: Any) -> Measurement:
    A = operators.build("super_resolution", factor=4)
    method = methods.build("p2l", **settings)
    return measure_steps(model, A, torch.zeros(1, 3, 4, 4), method)


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


def test_an_accelerator_that_is_not_here_is_extrapolated_from_its_datasheet(model: LatentDiffusion) -> None:
    found = measured(model, steps=100, prompt_tuning=None)
    here, spot = estimate(found, 3600, {"a100-spot": 2.0})
    assert here.measured and here.hours == (found.seconds, found.seconds) and here.dollars is None
    least = found.teraflop / DATASHEET_TFLOPS["a100"]
    assert not spot.measured
    assert spot.hours == pytest.approx((least, least / TYPICAL_SHARE))
    assert spot.dollars == pytest.approx((2 * least, 2 * least / TYPICAL_SHARE))


def test_the_command_prints_hours_memory_calls_and_dollars(model_folder: Path) -> None:
    arguments = ["plan", "sr8", "--images", "1000", "--price", "here=0.5", "--price", "a100=3.67"]
    small = [f"model={model_folder}", "size=32", "method.prompt_tuning=null"]
    result = CliRunner().invoke(app, arguments + [word for text in small for word in ("--set", text)])
    assert result.exit_code == 0, result.output
    for word in ("hours", "dollars", "peak memory", "NFE", "measured", "extrapolated", "datasheet"):
        assert word in result.output
