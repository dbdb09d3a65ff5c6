"""The solvers that need no model: what each gives, and that an image does not depend on its neighbours."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.operators.base import LinearOperator
from p2l_engine.solvers.parts.total_variation import adjoint_differences, differences, weights


def measured(name: str, x: Tensor, sigma: float = 0.0) -> tuple[LinearOperator, Tensor]:
    sources = [torch.Generator().manual_seed(seed) for seed in range(len(x))]
    choices: dict[str, dict[str, Any]] = {
        "denoising": {},
        "super_resolution": {"factor": 4},
        "inpainting": {"mask": "random", "fraction": 0.5},
        "gaussian_blur": {"size": 9, "sigma": 1.5},
    }
    settings = choices[name]
    A = operators.build(name, generators=sources, image_shape=tuple(x.shape[1:]), **settings)
    return A, A.measure(x, sigma, sources)


def flat_picture(count: int = 1, side: int = 32) -> Tensor:
    """A square and a disc, whose total variation is small."""
    x = torch.full((count, 3, side, side), -0.5)
    x[:, :, side // 4 : side // 2, side // 4 : -4] = 0.7
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x[:, 1, (rows - side * 3 // 4) ** 2 + (columns - side // 3) ** 2 < side] = 0.2
    return x.roll((2, 3), dims=(2, 3))  # off the grid of blocks


def test_adjoint_enlarges_plainly_and_needs_no_model() -> None:
    A = operators.build("super_resolution", factor=4)
    y = torch.rand(2, 3, 4, 4) * 2 - 1
    out = restore(None, A, y, "adjoint")
    assert torch.allclose(out.images, y.repeat_interleave(4, 2).repeat_interleave(4, 3), atol=1e-6)
    assert out.nfe == 0 and out.latents is None and out.prompt_embeddings is None


def test_bicubic_is_pillows() -> None:
    y = torch.rand(2, 3, 5, 7) * 2 - 1
    out = restore(None, operators.build("super_resolution", factor=4), y, "bicubic")
    for picture, restored in zip(y, out.images, strict=True):
        for channel, mine in zip(picture.numpy(), restored.numpy(), strict=True):
            theirs = Image.fromarray(channel).resize((28, 20), Image.Resampling.BICUBIC)
            np.testing.assert_allclose(mine, np.asarray(theirs).clip(-1, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["denoising", "inpainting", "gaussian_blur"])
def test_bicubic_gives_what_adjoint_gives_where_nothing_is_enlarged(name: str) -> None:
    A, y = measured(name, flat_picture())
    assert torch.equal(restore(None, A, y, "bicubic").images, restore(None, A, y, "adjoint").images)


def test_the_adjoint_of_the_differences_is_their_adjoint() -> None:
    x, p = torch.randn(2, 3, 5, 6, dtype=torch.float64), torch.randn(2, 2, 3, 5, 6, dtype=torch.float64)
    ours, theirs = (x * adjoint_differences(p)).sum(), (differences(x) * p).sum()
    torch.testing.assert_close(ours, theirs)


def test_tv_finds_the_minimum_that_another_solver_finds() -> None:
    """For denoising, that of scikit-image's `denoise_tv_chambolle`, of (x - y)^2 / 2 + w TV, one channel."""
    from skimage.restoration import denoise_tv_chambolle

    y = flat_picture(side=24) + 0.2 * torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    y = y[:, :1].expand(-1, 3, -1, -1).double()
    weight = 0.15
    ours = restore(
        None, operators.build("denoising"), y, methods.build("tv", weight=weight * 3**0.5, steps=2000)
    )
    theirs = denoise_tv_chambolle(y[0, 0].numpy(), weight=weight, eps=1e-9, max_num_iter=20000)
    np.testing.assert_allclose(ours.images[0, 0].numpy(), theirs, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "share"),
    [("denoising", 0.2), ("super_resolution", 0.8), ("inpainting", 0.1), ("gaussian_blur", 0.5)],
)
def test_tv_takes_its_weight_from_the_noise_and_beats_the_plain_answer(name: str, share: float) -> None:
    x = flat_picture()
    A, y = measured(name, x, sigma=0.05)

    def error(method: str) -> float:
        return float((restore(None, A, y, method, sigma=0.05).images - x).square().mean())

    assert error("tv") < share * error("adjoint")


@pytest.mark.parametrize("name", ["denoising", "super_resolution", "inpainting"])
def test_the_weight_of_total_variation_is_that_of_the_picture_on_any_canvas(name: str) -> None:
    A, y = measured(name, flat_picture(), sigma=0.05)
    assert torch.equal(weights(operators.Cropped(A, (8, 4)), y, 0.05), weights(A, y, 0.05))


@pytest.mark.parametrize("name", ["super_resolution", "inpainting", "gaussian_blur"])
def test_an_image_does_not_depend_on_its_neighbours(name: str) -> None:
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64) * 2 - 1
    A, y = measured(name, x, sigma=0.1)
    method = methods.build("tv", steps=20)
    together = restore(None, A, y, method, sigma=0.1).images
    for place in range(3):
        alone = restore(None, A.select([place]), y[[place]], method, sigma=0.1).images
        assert torch.allclose(alone[0], together[place], atol=1e-9)


def test_steps_for_a_method_without_any_are_refused() -> None:
    with pytest.raises(ValueError, match="steps: got 5; allowed: none, the method adjoint takes no steps"):
        restore(None, operators.build("denoising"), torch.zeros(1, 3, 16, 16), "adjoint", steps=5)
