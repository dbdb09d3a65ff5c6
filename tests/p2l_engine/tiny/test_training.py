"""The small model's recipe: its data, its checkpoints, and a whole training in miniature."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from p2l_engine import load_model
from p2l_engine.tiny import data, evaluate, train
from p2l_engine.tiny.photographs import HELD_OUT, TRAINING_MATE, TRAINING_SCIKIT_IMAGE, training_photographs
from p2l_engine.tiny.scenes import draw_scene
from p2l_engine.tiny.train import Training


def test_a_scene_follows_from_its_seed_and_its_caption_tells_its_colours() -> None:
    image, caption = draw_scene(np.random.default_rng(5))
    again, _ = draw_scene(np.random.default_rng(5))
    other, _ = draw_scene(np.random.default_rng(6))
    assert image.shape == (64, 64, 3) and np.array_equal(image, again) and not np.array_equal(image, other)
    assert caption.split(" of ")[0].split()[1] in ("disc", "square", "triangle", "star")


def test_held_out_photographs_are_not_trained_on() -> None:
    assert not set(HELD_OUT) & set(TRAINING_SCIKIT_IMAGE)


def test_a_missing_collection_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mate-backgrounds"):
        training_photographs(tmp_path / "nowhere")


def test_crops_are_the_same_for_the_same_seed() -> None:
    first, again = data.held_out_crops(4), data.held_out_crops(4)
    assert np.array_equal(first.images, again.images) and first.captions == again.captions


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)

    def run(path: Path, until: int | None) -> Tensor:
        torch.manual_seed(0)
        training = Training({"net": nn.Linear(3, 1)}, 0.1, 20, path)

        def loss(step: int, generator: torch.Generator) -> Tensor:
            if step == until:
                raise KeyboardInterrupt
            net = training.modules["net"]
            return net(torch.randn(8, 3, generator=generator)).square().mean()

        training.run(loss, "test")
        return next(training.averaged()["net"].parameters())

    whole = run(tmp_path / "whole.pt", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", 15)
    resumed = run(tmp_path / "cut.pt", None)
    assert torch.equal(whole, resumed)


def test_a_training_in_miniature_writes_a_model_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = tmp_path / "mate"
    photographs.mkdir()
    for i, name in enumerate(TRAINING_MATE):
        ramp = np.linspace(0, 20 * i, 96).astype(np.uint8)
        Image.fromarray(np.broadcast_to(ramp[:, None, None], (96, 96, 3))).save(photographs / name)
    command = ["train", "--out", str(tmp_path / "model"), "--work", str(tmp_path / "work")]
    command += ["--mate-photographs", str(photographs), "--images", "32"]
    command += ["--vae-steps", "1", "--unet-steps", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(evaluate, "COUNT", 8)
    found = evaluate.held_out_photographs()
    monkeypatch.setattr(evaluate, "held_out_photographs", lambda: dict([*found.items()][:1]))
    train.main()
    printed = capsys.readouterr().out
    assert "auto-encoding held-out scenes" in printed and "noise prediction at t = 500" in printed
    model = load_model(str(tmp_path / "model"))
    z = model.encode(torch.zeros(1, 3, 64, 64))
    assert z.shape == (1, model.latent_channels, 16, 16)
    assert torch.isfinite(model.predict_noise(z, 500, model.embed_prompts(["a red disc"]))).all()
