"""Operators of a few images of 16x16 pixels, by which a solver is held against a second writing of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from p2l_engine import operators, restore
from p2l_engine.operators.base import LinearOperator
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.solvers import Solver


def pooling(rows: slice) -> LinearOperator:
    """Alike for every image."""
    return operators.build("super_resolution", factor=4)


def mask(rows: slice) -> LinearOperator:
    """Of three images, each with its own."""
    masks = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    return operators.build("inpainting", mask="given", masks=masks[rows].double())


def blur(rows: slice) -> LinearOperator:
    """Of two images, each with its own."""
    kernels = torch.rand(2, 1, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return operators.build("blur", kernels=(kernels / kernels.sum(dim=(2, 3), keepdim=True))[rows])


def tuned_prompt(
    model: LatentDiffusion,
    A: LinearOperator,
    y: Tensor,
    z: Tensor,
    C: Tensor,
    t: int,
    iterations: int,
    learning_rate: float,
    through: str = "decoder",
) -> Tensor:
    """Algorithm 2 for one image, written from the paper apart from the library."""
    abar = model.process.alphas_cumprod[t]
    first, second, slope = torch.zeros_like(C), torch.zeros_like(C), None
    for k in range(1, iterations + 1):
        C = C.detach().requires_grad_()
        z0 = (z.detach() - (1 - abar).sqrt() * model.predict_noise(z.detach(), t, C)) / abar.sqrt()
        leaf = z0.detach().requires_grad_()
        square = (y - A(model.decode(leaf))).square().sum()
        if through == "decoder":
            inner = torch.autograd.grad(square.sqrt(), leaf)[0]
            loss = (y - A(model.decode(z0 - inner))).square().sum()
        else:
            slope = torch.autograd.grad(square, leaf)[0] if slope is None else slope
            loss = (slope * z0).sum()
        g = torch.autograd.grad(loss, C)[0]
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        unbiased = first / (1 - 0.9**k), second / (1 - 0.999**k)
        C = (C - learning_rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)).detach()
    return C


CASES = [(pooling, 2), (mask, 3), (blur, 2)]  # each with its number of images


def follows(
    reference: Callable[..., Tensor],
    model: LatentDiffusion,
    method: Solver,
    make: Callable[[slice], LinearOperator],
    count: int,
) -> int:
    """Asserts that images restored together end where a second loop takes each alone; returns the NFE."""
    source = torch.Generator().manual_seed(0)
    A = make(slice(None))
    y = A(torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=source) * 2 - 1)
    z = torch.randn(count, 4, 4, 4, dtype=torch.float64, generator=source)
    prompts, seeds = ["a red square", "", "blue stripes"][:count], [5, 6, 7][:count]
    out = restore(model, A, y, method, prompts=prompts, seeds=seeds, initial_latents=z)
    assert out.latents is not None
    C = model.embed_prompts(prompts)
    for place in range(count):
        row = slice(place, place + 1)
        expected = reference(model, make(row), y[row], z[row], C[row], method, seeds[place])
        torch.testing.assert_close(out.latents[row], expected, rtol=0, atol=1e-7)
    return out.nfe


def independent(model: LatentDiffusion, method: Solver) -> None:
    """Asserts that three images come out alike alone, together, and in another order."""
    y, seeds = torch.rand(3, 3, 16, 16, dtype=torch.float64) * 2 - 1, [3, 1, 4]

    def run(order: list[int]) -> Tensor:
        A = mask(slice(None)).select(order)
        return restore(model, A, A(y[order]), method, seeds=[seeds[i] for i in order]).images

    together = run([0, 1, 2])
    assert torch.allclose(torch.cat([run([i]) for i in range(3)]), together, atol=1e-9)
    assert torch.allclose(run([2, 0, 1]), together[[2, 0, 1]], atol=1e-9)
