"""The recipe in miniature: it trains, snapshots, goes on from a snapshot, and its yardstick measures it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from p2l_engine import load_model
from p2l_engine.tiny import data, distill, small_decoder, train, yardstick
from p2l_engine.tiny.collection import Photograph, held_out_photographs
from p2l_engine.tiny.data import held_out_crops
from p2l_engine.tiny.train import Recipe, run

RECIPE = Recipe(epoch=8, linear_steps=1, linear_batch=2, vae_steps=1, vae_batch=6, decoder_steps=1,
                decoder_batch=2, unet_steps=2, unet_batch=2,
                unet_whole_every=2)  # fmt: skip


def photographs() -> list[Photograph]:
    return list(held_out_photographs("tuning").values())


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model after a step of each stage, written from its checkpoints."""
    work, folder = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "training_photographs", lambda _: photographs())
        run(RECIPE, Path(), work, "cpu", None, None)
        run(RECIPE, Path(), work, "cpu", None, folder)
    return folder


def test_a_snapshot_is_a_model_that_predicts_v(snapshot: Path) -> None:
    assert json.loads((snapshot / "training.json").read_text()) == {"step": 2}
    assert json.loads((snapshot / "scheduler/scheduler_config.json").read_text())["prediction_type"] == (
        "v_prediction"
    )
    model = load_model(str(snapshot))
    z = model.encode(torch.zeros(1, 3, 64, 64))
    assert z.shape == (1, 12, 16, 16)
    assert torch.isfinite(model.predict_noise(z, 500, model.embed_prompts(["a red disc"]))).all()


def test_a_snapshot_without_a_checkpoint_is_refused_before_anything_trains(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="unet.pt is missing"):
        run(RECIPE, Path(), tmp_path, "cpu", None, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_training_goes_on_from_a_snapshot_and_keeps_its_auto_encoder(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "training_photographs", lambda _: photographs())
    further = Recipe(epoch=8, unet_steps=3, unet_batch=2)
    run(further, Path(), tmp_path / "work", "cpu", snapshot, None)
    run(further, Path(), tmp_path / "work", "cpu", snapshot, tmp_path / "model")
    assert json.loads((tmp_path / "model/training.json").read_text()) == {"step": 3}
    weights = "diffusion_pytorch_model.safetensors"
    before, after = (load_file(folder / "vae" / weights) for folder in (snapshot, tmp_path / "model"))
    assert all(torch.equal(before[key], after[key]) for key in before)
    before, after = (load_file(folder / "unet" / weights) for folder in (snapshot, tmp_path / "model"))
    assert not all(torch.equal(before[key], after[key]) for key in before)
    for name in ("vae", "unet"):
        assert str(snapshot) not in (tmp_path / "model" / name / "config.json").read_text()


def test_the_file_of_an_adapter_makes_the_networks_weights_those_it_was_trained_to(
    snapshot: Path, tmp_path: Path
) -> None:
    sizes = distill.Distillation(steps=2, rank=4)
    few = Recipe(epoch=8, unet_batch=2)
    adapter = distill.distil(few, sizes, photographs(), snapshot, tmp_path, "cpu")
    adapter.save(tmp_path / "adapter")
    before, after = (load_model(str(snapshot), lora=lora)._unet for lora in (None, str(tmp_path / "adapter")))
    expected = adapter.weights(before)
    assert len(expected) > 100
    moved = 0.0
    for name, weight in expected.items():
        torch.testing.assert_close(after.get_parameter(name), weight, atol=1e-5, rtol=1e-3)
        moved += (weight - before.get_parameter(name)).abs().sum().item()
    assert moved > 0


def test_a_small_decoder_comes_nearer_to_the_decoder(
    snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = Recipe(epoch=8, unet_batch=4)
    small = small_decoder.train(few, photographs(), snapshot, tmp_path, "cpu", steps=12)
    for one in (small_decoder.new_small_decoder(), small):
        small_decoder.print_figures(snapshot, one, "cpu")
    printed = capsys.readouterr().out.splitlines()
    before, after = (float(line.split()[3]) for line in printed if line.startswith("crops: against"))
    assert after > before + 1


@torch.no_grad()
def test_the_yardstick_prints_every_figure(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = held_out_crops("tuning")
    few = type(pool)(pool.images[:2], pool.captions[:2])
    monkeypatch.setattr(yardstick, "held_out_crops", lambda _: few)
    monkeypatch.setattr(data, "HELD_OUT_SCENES", 4)
    yardstick.print_figures(load_model(str(snapshot)), "tuning")
    printed = capsys.readouterr().out
    assert "4 drawn scenes\nauto-encoding: " in printed
    assert "2 crops of the tuning photographs\nauto-encoding: " in printed
    assert printed.count(" with a wrong caption") == 14 and printed.count("non-local means") == 3


@torch.no_grad()
def test_non_local_means_free_a_photograph_of_noise() -> None:
    x = held_out_crops("tuning").batch(torch.arange(3)).double()
    y = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    assert yardstick.psnr(x, yardstick.non_local_means(y, 0.2)) > yardstick.psnr(x, y) + 3
