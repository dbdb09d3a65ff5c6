"""Activation checkpointing: the same numbers from less memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from p2l_engine import LatentDiffusion, methods, operators, restore
from p2l_engine.counting import OperationCounter
from p2l_engine.priors.load import Model
from p2l_engine.priors.pixel import PixelDiffusion
from p2l_engine.solvers import Solver


@contextmanager
def checkpointing(model: Model) -> Iterator[None]:
    model.checkpoint_activations(True)
    try:
        yield
    finally:
        model.checkpoint_activations(False)


def check_same(model: Model, solver: Solver, size: tuple[int, int]) -> None:
    A = operators.build("super_resolution", factor=4)
    y = torch.rand(2, 3, size[0] // 4, size[1] // 4, dtype=torch.float64)
    plain = restore(model, A, y, solver, steps=2)
    with checkpointing(model), OperationCounter() as recomputed:
        found = restore(model, A, y, solver, steps=2)
    with OperationCounter() as again:
        after = restore(model, A, y, solver, steps=2)
    assert torch.equal(found.images, plain.images) and torch.equal(after.images, plain.images)
    assert (found.nfe, found.errors) == (plain.nfe, (None, None))
    if found.prompt_embeddings is not None and plain.prompt_embeddings is not None:
        assert torch.equal(found.prompt_embeddings, plain.prompt_embeddings)
    assert recomputed.flop > 1.1 * again.flop, "blocks were computed again, and are no more"


@pytest.mark.parametrize("name", ["p2l", "psld"])
def test_latent_methods_give_the_same_bits(random_model: LatentDiffusion, name: str) -> None:
    """With gradients to z and to the prompt, on images of an odd aspect."""
    check_same(random_model, methods.build(name), (12, 28))


def test_so_do_windows(random_model: LatentDiffusion) -> None:
    check_same(random_model, methods.build("ldps", patches={"size": 4, "stride": 2}), (24, 32))


def test_so_do_methods_over_pixels(pixel_model: PixelDiffusion) -> None:
    check_same(pixel_model, methods.build("dps"), (8, 16))


def test_a_gradient_holds_less_at_its_peak(tiny_model: LatentDiffusion) -> None:
    def peak() -> int:
        z = torch.zeros(1, tiny_model.latent_channels, 16, 16, requires_grad=True)
        with OperationCounter() as counter:
            torch.autograd.grad(tiny_model.decode(z).sum(), z)
        return counter.peak_bytes

    plain = peak()
    with checkpointing(tiny_model):
        assert peak() < plain / 2
