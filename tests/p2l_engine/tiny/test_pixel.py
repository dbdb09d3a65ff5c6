"""The small pixel-domain model: its recipe in miniature, and what is shipped."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from p2l_engine import load_model, methods, operators, restore
from p2l_engine.priors.pixel import PixelDiffusion
from p2l_engine.schedule import posterior_mean
from p2l_engine.seeding import generator
from p2l_engine.tiny import data
from p2l_engine.tiny.pixel import train


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    """The recipe's command, on images that are there already."""
    monkeypatch.setattr(
        sys, "argv", ["train", "--out", str(folder / "model"), "--work", str(folder), *arguments]
    )
    train.main()


def test_a_training_in_miniature_writes_a_model_that_loads_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = data.scenes(4, 0).images
    np.save(tmp_path / "images.npy", np.stack([scenes, scenes]))
    monkeypatch.setattr(data, "HELD_OUT_SCENES", 4)
    monkeypatch.setattr(data, "HELD_OUT_EXTENTS", (360,))
    training = ("--packages", str(tmp_path), "--device", "cpu")
    run(monkeypatch, tmp_path, "--steps", "3", *training)
    assert "held-out crops from their noised at t = 900: squared error 0." in capsys.readouterr().out
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == {"step": 3}
    model = load_model(str(tmp_path / "model"))
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = model.predict_noise(x, 500)
    assert torch.isfinite(first).all() and model.process.prediction_type == "v_prediction"

    run(monkeypatch, tmp_path, "--steps", "5", *training)
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == {"step": 5}
    with torch.no_grad():
        later = load_model(str(tmp_path / "model")).predict_noise(x, 500)
    assert not torch.equal(first, later)
    run(monkeypatch, tmp_path, "--snapshot", "--device", "cpu")
    with torch.no_grad():
        assert torch.equal(later, load_model(str(tmp_path / "model")).predict_noise(x, 500))

    (tmp_path / "unet.pt").unlink()
    run(monkeypatch, tmp_path, "--start", "--steps", "1", *training)
    assert str(train.WEIGHTS) not in (tmp_path / "model" / "unet" / "config.json").read_text()
    with torch.no_grad():
        shipped = load_model("tiny-pixel").predict_noise(x, 500)
        assert torch.equal(shipped, load_model(str(tmp_path / "model")).predict_noise(x, 500))


def test_a_snapshot_of_no_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "--snapshot")
    assert "there is no checkpoint" in capsys.readouterr().err


def test_training_without_photographs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path)
    assert "--packages" in capsys.readouterr().err


def test_the_weights_are_safetensors_of_at_most_20_mib() -> None:
    files = [path for path in train.WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20 * 2**20
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert not [path for path in files if path.suffix == ".json" and "/" in path.read_text()]


@pytest.fixture(scope="module")
def tiny_pixel() -> PixelDiffusion:
    model: PixelDiffusion = load_model("tiny-pixel")
    return model


@torch.no_grad()
@pytest.mark.parametrize("t", [300, 500])
def test_the_shipped_model_denoises_what_it_never_saw(tiny_pixel: PixelDiffusion, t: int) -> None:
    """Better than x_t scaled, which is all that it knew before it was trained."""
    pools = (data.held_out_scenes(), data.held_out_crops("test"))
    x = torch.cat([pool.batch(torch.arange(8)) for pool in pools])
    a = float(tiny_pixel.process.alphas_cumprod[t])
    noisy = a**0.5 * x + (1 - a) ** 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    x0 = posterior_mean(noisy, tiny_pixel.predict_noise(noisy, t), a)
    assert float((x0 - x).square().mean()) < 0.95 * float((a**0.5 * noisy - x).square().mean())


@pytest.mark.parametrize("method", ["dps", "diffpir", "dds", "pigdm"])
def test_every_method_over_pixels_runs_on_the_shipped_model(tiny_pixel: PixelDiffusion, method: str) -> None:
    """With its settings, in a few steps; those that solve for the measurement end near it."""
    x = data.scenes(2, data.HELD_OUT_SEED + 3).batch(torch.arange(2))
    A = operators.build("super_resolution", factor=4)
    y = A.measure(x, 0.01, [generator(seed, "noise") for seed in range(2)])
    solver = methods.build(method, "tiny", "super_resolution", steps=5)
    out = restore(tiny_pixel, A, y, solver, seeds=[0, 1], sigma=0.01)
    assert out.errors == (None, None) and out.nfe == 5
    assert method in ("dps", "pigdm") or float(out.residual.max()) < 0.1
