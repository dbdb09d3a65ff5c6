"""What the recipes share: drawn scenes, and trainings that go on where they were interrupted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from p2l_engine.tiny import training
from p2l_engine.tiny.scenes import draw_scene


def test_a_scene_follows_from_its_seed_and_its_caption_tells_its_colours() -> None:
    image, caption = draw_scene(np.random.default_rng(5))
    again, _ = draw_scene(np.random.default_rng(5))
    other, _ = draw_scene(np.random.default_rng(6))
    assert image.shape == (64, 64, 3) and np.array_equal(image, again) and not np.array_equal(image, other)
    assert caption.split(" of ")[0].split()[1] in ("disc", "square", "triangle", "star")


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)

    def run(path: Path, until: int | None) -> Tensor:
        torch.manual_seed(0)
        started = training.Training({"net": nn.Linear(3, 1)}, 0.1, 20, path)

        def loss(step: int, generator: torch.Generator) -> Tensor:
            if step == until:
                raise KeyboardInterrupt
            net = started.modules["net"]
            return net(torch.randn(8, 3, generator=generator)).square().mean()

        started.run(loss, "test")
        return next(started.averaged()["net"].parameters())

    whole = run(tmp_path / "whole.pt", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", 15)
    resumed = run(tmp_path / "cut.pt", None)
    assert torch.equal(whole, resumed)


def test_a_checkpoint_is_gone_on_from_where_the_modules_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written on one device, read on another; here one precision stands for each."""
    path, read = tmp_path / "c.pt", list[object]()
    genuine = torch.load

    def noting(*arguments: Any, **settings: Any) -> Any:
        read.append(settings["map_location"])
        return genuine(*arguments, **settings)

    monkeypatch.setattr(torch, "load", noting)

    def train(steps: int, dtype: torch.dtype) -> training.Training:
        started = training.Training({"net": nn.Linear(3, 1, dtype=dtype)}, 0.1, steps, path)
        net = started.modules["net"]
        started.run(lambda step, source: net(torch.ones(1, 3, dtype=dtype)).square().mean(), "test")
        return started

    before = train(2, torch.float32).average["net"]["weight"]
    resumed = training.Training({"net": nn.Linear(3, 1, dtype=torch.float64)}, 0.1, 2, path)
    assert read == ["cpu"] and resumed.step == 2
    assert torch.equal(resumed.average["net"]["weight"], before.double())
