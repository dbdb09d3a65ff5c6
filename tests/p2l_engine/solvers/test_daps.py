"""Latent DAPS against a second writing of its loop, one image at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.operators.base import LinearOperator
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.seeding import generator
from p2l_engine.solvers.daps import DAPS
from tests.p2l_engine.cases import CASES, follows, independent

METHOD: Any = methods.build(
    "daps",
    sigma_max=2.0,  # where z_T is not of deviation 1
    steps=4,
    flow_steps=3,
    guidance_scale=2.0,
    null_prompt="blue",
    dynamics={"iterations": 3, "step_size": 1e-3, "last": 0.1, "momentum": 0.6, "tau": 0.5},
)


def nearest(model: LatentDiffusion, sigma: float) -> int:
    table = [float(((1 - a) / a).sqrt().log()) for a in model.process.alphas_cumprod]
    wanted = float(torch.tensor(sigma, dtype=torch.float64).log())
    return min(range(1000), key=lambda t: abs(table[t] - wanted))


def karras(largest: float, least: float, share: float) -> float:
    return (largest ** (1 / 7) + share * (least ** (1 / 7) - largest ** (1 / 7))) ** 7


def reference(
    model: LatentDiffusion, A: LinearOperator, y: Tensor, z: Tensor, C: Tensor, method: DAPS, seed: int
) -> Tensor:
    """In the units of the authors' code, where x_t = z_t / sqrt(a) and noise is added to it."""
    source, setting = generator(seed, "solver"), method.dynamics
    null = model.embed_prompts([method.null_prompt])
    times = [nearest(model, karras(method.sigma_max, method.sigma_min, k / method.steps)) for k in range(4)]

    def sigma(t: int) -> Tensor:
        a = model.process.alphas_cumprod[t]
        return ((1 - a) / a).sqrt()

    def draw() -> Tensor:
        return torch.randn(z.shape[1:], generator=source).to(z)[None]

    x = z * sigma(times[0])
    for k, t in enumerate(times):
        ladder = [nearest(model, karras(float(sigma(t)), 1e-3, j / 3)) for j in (1, 2)]
        x0, now = x, t
        with torch.no_grad():
            for after in [*ladder, None]:
                scaled = x0 / (1 + sigma(now) ** 2).sqrt()
                out, text = model.predict_noise(scaled, now, null), model.predict_noise(scaled, now, C)
                eps = out + 2.0 * (text - out)
                x0 = x0 + ((0 if after is None else sigma(after)) - sigma(now)) * eps
                now = after if after is not None else now
        rate = setting.step_size * (1 + k / 5 * (setting.last - 1))
        u, velocity = x0, draw()
        for _ in range(setting.iterations):
            u = u.detach().requires_grad_()
            g = torch.autograd.grad((y - A(model.decode(u))).square().sum(), u)[0]
            score = (x - u) / sigma(t) ** 2 + (x0 - x) / sigma(t) ** 2 - g / setting.tau**2
            velocity = 0.6 * velocity + rate**0.5 * score + (2 * 0.4) ** 0.5 * draw()
            u = u.detach() + rate**0.5 * velocity.detach()
        x = u + sigma(times[k + 1]) * draw() if k < 3 else u
    return x


def test_a_beginning_that_the_model_does_not_know_and_too_many_steps_are_refused(
    random_model: LatentDiffusion,
) -> None:
    A, y = operators.build("denoising"), torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"sigma_max: got 100.0; allowed: up to 14.6\d, the model's own"):
        restore(random_model, A, y, methods.build("daps", sigma_max=100.0))
    with pytest.raises(ValueError, match="steps: got 1001; allowed: 1 to 1000"):
        restore(random_model, A, y, methods.build("daps", steps=1001))


@pytest.mark.parametrize(("make", "count"), CASES)
def test_the_loop_is_the_authors_algorithm(
    random_model: LatentDiffusion, make: Callable[[slice], LinearOperator], count: int
) -> None:
    assert follows(reference, random_model, METHOD, make, count) == 4 * 3 * 2


def test_an_image_does_not_depend_on_its_neighbours(random_model: LatentDiffusion) -> None:
    independent(random_model, METHOD)


def test_the_levels_are_the_nearest_that_the_model_has(random_model: LatentDiffusion) -> None:
    steps = methods.build("daps").schedule(random_model)
    sigmas = [((1 - at.alpha_bar) / at.alpha_bar) ** 0.5 for at in steps]
    assert len(steps) == 50 and steps[-1].alpha_bar_prev == 1.0
    assert sigmas[-1] == pytest.approx(0.116, abs=5e-4)  # of sigma_min 0.1
    for k, sigma in enumerate(sigmas):
        assert sigma == pytest.approx(karras(10.0, 0.1, k / 50), rel=0.02)
    assert [at.alpha_bar for at in steps[1:]] == [at.alpha_bar_prev for at in steps[:-1]]


@pytest.mark.parametrize("sigma_min", [0.1, 5.0])
def test_annealing_upwards_is_refused(sigma_min: float) -> None:
    (problem,) = methods.validate({"name": "daps", "sigma_max": 0.1, "sigma_min": sigma_min})
    assert problem == f"sigma_min: got {sigma_min}; allowed: below sigma_max, 0.1"
