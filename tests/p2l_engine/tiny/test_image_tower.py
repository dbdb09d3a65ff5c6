"""The shipped image tower tells scenes by their captions; its recipe in miniature."""

import sys
from pathlib import Path

import pytest
import torch

from p2l_engine import LatentDiffusion
from p2l_engine.priors.fetch import beside_tiny
from p2l_engine.priors.image_tower import SHIPPED, check_tower, load_tower
from p2l_engine.tiny import train_tower
from p2l_engine.tiny.data import held_out_scenes


@torch.no_grad()
def test_a_scene_is_nearer_to_its_caption_than_to_those_of_others(tiny_model: LatentDiffusion) -> None:
    """By what adaptive negation compares: the mean over tokens of inner products."""
    pool = held_out_scenes()
    vectors = load_tower("tiny", torch.device("cpu"), torch.float32)(pool.batch(torch.arange(48)))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(48), atol=1e-5)
    tokens = tiny_model.embed_prompts(pool.captions)
    scores = torch.einsum("id,jld->ijl", vectors, tokens).mean(dim=2)
    assert (scores.argmax(dim=1) == torch.arange(48)).float().mean() > 0.8
    others = scores[~torch.eye(48, dtype=torch.bool)].view(48, 47)
    assert (scores.diag()[:, None] > others).float().mean() > 0.98


def test_its_weights_are_below_3_mib_and_as_wide_as_the_text(tiny_model: LatentDiffusion) -> None:
    assert sum(path.stat().st_size for path in beside_tiny(SHIPPED).iterdir()) < 3 * 2**20
    assert check_tower("tiny", tiny_model.text_width) == []


@torch.no_grad()
def test_pictures_of_any_size_are_squeezed_into_its_square() -> None:
    tower = load_tower("tiny", torch.device("cpu"), torch.float32)
    x = held_out_scenes().batch(torch.arange(4))
    larger = torch.nn.functional.interpolate(x, size=(128, 192), mode="bicubic").clamp(-1, 1)
    likeness = tower(x) @ tower(larger).T
    assert (likeness.argmax(dim=1) == torch.arange(4)).all() and float(likeness.diag().min()) > 0.9


def test_a_training_in_miniature_writes_a_tower_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train_tower", "--out", str(tmp_path / "tower"), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--steps", "2", "--scenes", "8"])
    monkeypatch.setattr(train_tower, "BATCH", 4)
    train_tower.main()
    assert "told of 48 captions" in capsys.readouterr().out
    tower = load_tower(str(tmp_path / "tower"), torch.device("cpu"), torch.float32)
    assert tower(torch.zeros(1, 3, 64, 64)).shape == (1, 128)
