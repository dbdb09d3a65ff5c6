"""Noise predicted in patches: the windows, their weights, and that solvers and gradients go through them."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.priors.patched import Patched, Patches, windows
from pipeline.config import ConfigError, load_config

BOTH: Any = pytest.mark.parametrize("weights", ["uniform", "gaussian"])


@dataclass
class Identity:
    """Predicts the latent itself, by windows of 64x64: whatever the weights, so does their average."""

    native_size: int = 512
    factor: int = 8
    evaluations: int = 0

    def predict_noise(self, z: Tensor, t: int, C: Tensor) -> Tensor:
        assert z.shape[-2:] == (64, 64) and len(C) == len(z)
        self.evaluations += len(z)
        return z


@pytest.mark.parametrize(
    ("length", "starts"),
    [(64, [0]), (96, [0, 32]), (100, [0, 32, 36]), (125, [0, 32, 61]), (187, [0, 32, 64, 96, 123])],
)
def test_the_last_window_is_flush_with_the_border(length: int, starts: list[int]) -> None:
    assert windows(length, 64, 64, 32) == [(start, 0) for start in starts]
    assert windows(64, length, 64, 32) == [(0, start) for start in starts]
    assert starts[-1] + 64 == length and all(b - a <= 32 for a, b in pairwise(starts))


@BOTH
@pytest.mark.parametrize(("size", "count"), [((64, 64), 1), ((96, 96), 4), ((100, 100), 9), ((125, 187), 15)])
def test_the_weights_of_every_cell_sum_to_one(weights: Any, size: tuple[int, int], count: int) -> None:
    """In float32, in the corners too, which one window alone reaches with a weight of 10^-11."""
    prior = Identity()
    z = 1 + torch.rand(2, 3, *size)
    noise = Patched(prior, Patches(weights=weights)).predict_noise(z, 5, torch.zeros(2, 1, 1))
    torch.testing.assert_close(noise, z, rtol=1e-6, atol=0)
    assert prior.evaluations == 2 * count


def test_weights_are_counted_once_for_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = Patched(Identity(), Patches())
    sizes, count = [], prior._shares

    def told(corners: list[tuple[int, int]], height: int, width: int) -> Tensor:
        sizes.append((height, width))
        return count(corners, height, width)

    monkeypatch.setattr(prior, "_shares", told)
    for side in (96, 96, 64, 96):
        z = torch.ones(1, 3, side, side)
        torch.testing.assert_close(prior.predict_noise(z, 5, torch.zeros(1, 1, 1)), z)
    assert sizes == [(96, 96), (64, 64)]


@BOTH
def test_windows_are_averaged_by_their_weights_and_gradients_pass(
    random_model: LatentDiffusion, weights: Any
) -> None:
    """Against sums written out, for latents of 6x8 in windows of 4x4: 2x3 of them."""
    z = torch.randn(2, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    C = random_model.embed_prompts(["a red square", ""]).requires_grad_()
    patches = Patches(size=4, stride=2, weights=weights, variance=0.05)
    noise = Patched(random_model, patches).predict_noise(z, 500, C)

    offset = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64) / 4
    line = torch.exp(-(offset**2) / 0.1) if weights == "gaussian" else torch.ones(4, dtype=torch.float64)
    above, below = torch.zeros(2, 4, 6, 8, dtype=torch.float64), torch.zeros(6, 8, dtype=torch.float64)
    for top in (0, 2):
        for left in (0, 2, 4):
            part = random_model.predict_noise(z[..., top : top + 4, left : left + 4], 500, C)
            around = (left, 4 - left, top, 2 - top)
            above = above + torch.nn.functional.pad(part * torch.outer(line, line), around)
            below = below + torch.nn.functional.pad(torch.outer(line, line), around)
    expected = above / below
    torch.testing.assert_close(noise, expected, rtol=0, atol=1e-10)
    for found, wanted in zip(
        torch.autograd.grad(noise.square().sum(), (z, C)),
        torch.autograd.grad(expected.square().sum(), (z, C)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["p2l", "treg"])
def test_a_patch_that_covers_all_is_the_plain_prior(random_model: LatentDiffusion, name: str) -> None:
    A, y = operators.build("denoising"), torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1
    plain = restore(random_model, A, y, methods.build(name, steps=2))
    covered = restore(random_model, A, y, methods.build(name, steps=2, patches={"size": 4}))
    assert torch.equal(plain.images, covered.images) and plain.nfe == covered.nfe


def test_each_window_is_an_evaluation(random_model: LatentDiffusion) -> None:
    A, y = operators.build("denoising"), torch.zeros(2, 3, 24, 24, dtype=torch.float64)
    out = restore(random_model, A, y, methods.build("ldps", steps=3, patches={"size": 4, "stride": 2}))
    assert out.nfe == 3 * 4 and out.errors == (None, None)


@pytest.mark.parametrize(
    ("patches", "why"),
    [
        ({"size": 6}, "patches.size: got 6 for latents of 4x4; allowed: at most 4"),
        ({"size": 3}, "patches.size: got 3; allowed: multiples of 2"),
        ({"size": 4, "stride": 5}, "patches.stride: got 5; allowed: 1 to 4"),
    ],
)
def test_patches_that_do_not_fit_are_refused(
    random_model: LatentDiffusion, patches: dict[str, int], why: str
) -> None:
    y = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"method.{why}"):
        restore(random_model, operators.build("denoising"), y, methods.build("ldps", patches=patches))


def test_a_job_whose_pictures_are_smaller_than_a_patch_is_refused(tmp_path: Path) -> None:
    job = {
        "input": str(tmp_path),
        "output": str(tmp_path / "out"),
        "model": "tiny",
        "method": {"name": "ldps", "patches": {"size": 20}},
    }
    with pytest.raises(ConfigError, match=r"method.patches.size: got 20 for latents of 16x16"):
        load_config(job)
    assert load_config(job, ["size=96"]).method.model_dump()["patches"]["size"] == 20


def test_a_run_begun_without_patches_keeps_its_fingerprint() -> None:
    assert "patches" not in methods.build("p2l").model_dump()
