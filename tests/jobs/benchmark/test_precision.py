"""The benchmark of half types: every method has a row, by a model on the device that a job would take."""

from __future__ import annotations

import pytest
import torch

from jobs.benchmark import precision
from p2l_engine.methods import SOLVERS
from pipeline.worker import models


def test_every_method_with_a_model_is_among_the_rows() -> None:
    known = {name for name, solver in SOLVERS.items() if solver.prior is not None}
    assert {row["name"] for row in precision.METHODS.values()} == known


def test_images_are_compared_wherever_the_model_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def told(device: str) -> str:
        asked.append(device)
        return "cpu"

    monkeypatch.setattr(models, "device_here", told)
    found = precision.figures("latino_pro", "bfloat16", images=2, steps=1)
    assert asked == ["auto"] and found.shape == (2,) and torch.isfinite(found).all()
