"""Frozen networks that keep less for their gradients: the same numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from p2l_engine import LatentDiffusion, load_model, methods, operators, restore
from p2l_engine.counting import OperationCounter
from p2l_engine.priors.load import Model
from p2l_engine.priors.networks import frozen
from p2l_engine.priors.pixel import PixelDiffusion
from p2l_engine.solvers import Solver

NEVER, ALWAYS = 2**60, 0


@pytest.fixture
def worth(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda numbers: monkeypatch.setattr(frozen, "WORTH", numbers)


def check_same(
    worth: Callable[[int], None], model: Model, solver: Solver, size: tuple[int, int], tolerance: float = 0
) -> None:
    A = operators.build("super_resolution", factor=4)
    y = torch.rand(2, 3, size[0] // 4, size[1] // 4, dtype=torch.float64)
    worth(NEVER)
    plain = restore(model, A, y, solver, steps=2)
    worth(ALWAYS)
    found = restore(model, A, y, solver, steps=2)
    torch.testing.assert_close(found.images, plain.images, rtol=0, atol=tolerance)
    assert found.errors == (None, None)
    if found.prompt_embeddings is not None and plain.prompt_embeddings is not None:
        assert torch.equal(found.prompt_embeddings, plain.prompt_embeddings)


@pytest.mark.parametrize("name", ["p2l", "psld"])
def test_latent_methods_give_the_same_bits(
    worth: Callable[[int], None], random_model: LatentDiffusion, name: str
) -> None:
    """With gradients to z and to the prompt, through the encoder too, on images of an odd aspect."""
    check_same(worth, random_model, methods.build(name), (12, 28))


def test_methods_over_pixels_give_the_same_numbers(
    worth: Callable[[int], None], pixel_model: PixelDiffusion
) -> None:
    """To within rounding: some of their gradients are sums of three, in another order."""
    check_same(worth, pixel_model, methods.build("dps"), (8, 16), tolerance=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_precision_has_torch_s_gradients(worth: Callable[[int], None], dtype: str) -> None:
    model = load_model("tiny", dtype=dtype)

    def gradients(numbers: int) -> tuple[Tensor, ...]:
        worth(numbers)
        z = torch.ones(2, model.latent_channels, 8, 8, requires_grad=True)
        C = torch.ones(2, *model.embedding_shape, requires_grad=True)
        return torch.autograd.grad(model.decode(model.predict_noise(z, 500, C)).square().sum(), (z, C))

    for found, plain in zip(gradients(ALWAYS), gradients(NEVER), strict=True):
        assert torch.equal(found, plain) and found.any()


def test_a_gradient_holds_half_at_its_peak(worth: Callable[[int], None], tiny_model: LatentDiffusion) -> None:
    def peak(numbers: int) -> int:
        worth(numbers)
        z = torch.zeros(1, tiny_model.latent_channels, 16, 16, requires_grad=True)
        with OperationCounter() as counter:
            torch.autograd.grad(tiny_model.decode(z).sum(), z)
        return counter.peak_bytes

    assert peak(ALWAYS) < 0.6 * peak(NEVER)
