"""ReSample against a second writing of its loop, one image at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import methods
from p2l_engine.operators.base import LinearOperator
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.seeding import generator
from p2l_engine.solvers.resample import Optimisation, ReSample, minimise
from tests.p2l_engine.cases import CASES, follows, independent

SMALL = {"learning_rate": 0.05, "iterations": 4}
METHOD: Any = methods.build("resample", steps=9, every=2, ahead=3, pixel=SMALL, latent=SMALL)


def adam(loss: Callable[[Tensor], Tensor], x: Tensor, setting: Optimisation) -> Tensor:
    """AdamW as its paper has it, with torch's decay of 0.01."""
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(1, setting.iterations + 1):
        x = x.detach().requires_grad_()
        value = loss(x)
        g = torch.autograd.grad(value, x)[0]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x.detach() * (1 - 0.01 * setting.learning_rate)
        x = x - setting.learning_rate * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
        if float(value.detach()) < setting.tolerance**2:
            break
    return x


def reference(
    model: LatentDiffusion, A: LinearOperator, y: Tensor, z: Tensor, C: Tensor, method: ReSample, seed: int
) -> Tensor:
    T, table, source = method.steps, model.process.alphas_cumprod, generator(seed, "solver")
    times = [i * (1000 // T) + 1 for i in range(T)][::-1]
    alphas = [table[t] for t in times] + [table[0]]

    def ddim(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        e = model.predict_noise(z, times[k], C)
        z0 = (z - (1 - alphas[k]).sqrt() * e) / alphas[k].sqrt()
        return z0, alphas[k + 1].sqrt() * z0 + (1 - alphas[k + 1]).sqrt() * e

    for k in range(T):
        index, a, before = T - 1 - k, alphas[k], alphas[k + 1]
        z = z.detach().requires_grad_()
        z0, stepped = ddim(z, k)
        g = torch.autograd.grad((y - A(model.decode(z0))).square().sum().sqrt(), z)[0]
        z = (stepped - 0.5 * a * g).detach()
        if 0 < index <= T - T // 3 and index % method.every == 0:
            further = z
            with torch.no_grad():
                for later in range(k + 1, min(k + 1 + method.ahead, T)):
                    z0, further = ddim(further, later)
            if index >= T // 3:
                x0 = model.decode(z0)
                x0 = adam(lambda x: (y - A(x)).square().mean(), x0, method.pixel)
                zy = model.encode(x0)
            else:
                zy = adam(lambda z: (y - A(model.decode(z))).square().mean(), z0, method.latent)
            s = method.spread * (1 - before) / (1 - a) * (1 - a / before)
            n = torch.randn(z.shape[1:], generator=source).to(z)[None]
            z = (s * before.sqrt() * zy + (1 - before) * z) / (s + 1 - before)
            z = z + n * (1 / (1 / s + 1 / (1 - before))).sqrt()
    return adam(lambda z: (y - A(model.decode(z))).square().mean(), z, method.latent)


@pytest.mark.parametrize(("make", "count"), CASES)
def test_the_loop_is_the_authors_algorithm(
    random_model: LatentDiffusion, make: Callable[[slice], LinearOperator], count: int
) -> None:
    consistency = 3 + 3 + 2  # with 6, 4 and 2 steps left
    assert follows(reference, random_model, METHOD, make, count) == 9 + consistency


def test_an_image_does_not_depend_on_its_neighbours(random_model: LatentDiffusion) -> None:
    independent(random_model, METHOD)


def test_an_image_that_fits_stands_still_while_others_are_optimised() -> None:
    """Down |x|^2 from 0.001 and from 1, to a root mean square of 0.01."""
    start = torch.tensor([[0.001], [1.0]], dtype=torch.float64)
    setting = Optimisation(learning_rate=0.1, iterations=100, tolerance=0.01)
    found = minimise(lambda x: x.square().mean(dim=1), start, setting)
    alone = torch.cat([minimise(lambda x: x.square().mean(dim=1), row[None], setting) for row in start])
    torch.testing.assert_close(found, alone, rtol=0, atol=0)
    assert float(found[0]) == pytest.approx(
        0.001 * (1 - 0.001) - 0.1, abs=1e-6
    )  # the step in which it was seen
    assert abs(float(found[1])) < 0.1


def test_an_optimisation_that_gains_nothing_ends() -> None:
    """A slope that leads nowhere: the loss is as large again 200 iterations later."""
    calls = []

    def loss(x: Tensor) -> Tensor:
        calls.append(1)
        return 1.0 + len(calls) + 0 * x.sum(dim=1)

    minimise(loss, torch.zeros(1, 1), Optimisation(learning_rate=0.1, iterations=1000))
    assert len(calls) == 201
