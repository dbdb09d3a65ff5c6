"""Pixel solvers with a Gaussian prior: what each promises of one step is exact, what it draws is near."""

from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.operators.base import LinearOperator
from p2l_engine.schedule import Step, ddim_step, posterior_mean
from p2l_engine.solvers import Problem
from tests.p2l_engine.gaussian_prior import Gaussian, GaussianPixels, matrix

SHAPE, D, SIGMA = (3, 4, 4), 48, 0.1


def _mask() -> LinearOperator:
    mask = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    return operators.build("inpainting", mask="given", masks=mask.double())


OPERATORS: dict[str, LinearOperator] = {
    "denoising": operators.build("denoising"),
    "super_resolution": operators.build("super_resolution", factor=2),
    "inpainting": _mask(),
    "gaussian_blur": operators.build("gaussian_blur", size=3, sigma=0.8),
}


def posed(A: LinearOperator, prior: Gaussian) -> tuple[GaussianPixels, Problem, Tensor]:
    """Two images, their measurements, and one x_t of each."""
    model = GaussianPixels(prior, SHAPE)
    x = prior.draw(2).view(-1, *SHAPE)
    y = A.measure(x, SIGMA, [torch.Generator().manual_seed(seed) for seed in range(2)])
    x_t = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return model, Problem.of(A, y, SIGMA, [0, 1]), x_t


def at(model: GaussianPixels, t: int, last: bool = True) -> Step:
    table = model.process.alphas_cumprod
    return Step(1, t, table[t].item(), 1.0 if last else table[t - 50].item())


def with_x_t(prior: Gaussian, A: Tensor, y: Tensor, x_t: Tensor, a: float) -> Tensor:
    """E[x_0 | x_t, y] (B, d): x_t measures x_0, too."""
    scale = SIGMA / (1 - a) ** 0.5  # so that both measurements have the noise of y
    rows = torch.cat([A, scale * a**0.5 * torch.eye(D, dtype=torch.float64)])
    return prior.given(rows, torch.cat([y.flatten(1), scale * x_t.flatten(1)], dim=1), SIGMA).mean


@pytest.mark.parametrize("t", [100, 400, 800])
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("method", ["dds", "diffpir"])
def test_the_data_step_gives_the_exact_posterior_mean(method: str, name: str, t: int) -> None:
    """Where the weight says how far x_0 is from x_0|t, as it does for a white prior, E[x_0 | x_t, y]."""
    A, variance = OPERATORS[name], 0.2
    prior = Gaussian.white(D, mean=0.3, variance=variance)
    model, problem, x_t = posed(A, prior)
    end = at(model, t)
    a = end.alpha_bar
    left = variance * (1 - a) / (a * variance + 1 - a)  # variance of x_0 given x_t
    weight = SIGMA**2 / left if method == "dds" else (1 - a) / a / left
    solver = methods.build(method, weight=weight)
    state = type(solver.start(model, problem))(x_t)
    found = solver.step(model, problem, state, end).x.flatten(1)
    expected = with_x_t(prior, matrix(A, SHAPE), problem.y, x_t, a)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", [100, 400, 800])
@pytest.mark.parametrize("name", OPERATORS)
def test_pigdms_guidance_is_that_of_the_exact_posterior(name: str, t: int) -> None:
    """r_t^2 (score of x_t given y - score of x_t), for a prior of variance 1, which r_t^2 is meant for."""
    A, prior = OPERATORS[name], Gaussian.white(D, mean=0.3)
    model, problem, x_t = posed(A, prior)
    now = at(model, t, last=False)
    solver = methods.build("pigdm", eta=0.0)
    found = solver.step(model, problem, type(solver.start(model, problem))(x_t), now).x
    eps = model.predict_noise(x_t, t)
    plain = ddim_step(posterior_mean(x_t, eps, now.alpha_bar), eps, now.alpha_bar_prev)
    a, x = now.alpha_bar, x_t.flatten(1)
    posterior = prior.given(matrix(A, SHAPE), problem.y.flatten(1), SIGMA)
    guidance = posterior.noised(a).score(x) - prior.noised(a).score(x)
    scale = (now.alpha_bar_prev * a) ** 0.5 * (1 - a)
    torch.testing.assert_close((found - plain).flatten(1), scale * guidance, rtol=0, atol=1e-6)


MANY, SMALL = 300, (3, 2, 2)
NARROW = Gaussian(Gaussian.random(12).mean, 0.2 * Gaussian.random(12).covariance)  # whose draws need no clamp


def drawn(method: str, A: LinearOperator, y: Tensor, **settings: Any) -> Tensor:
    """(MANY, d) restorations of one measurement y (1, ...) in 100 steps, from as many seeds."""
    solver = methods.build(method, steps=100, **settings)
    model = GaussianPixels(NARROW, SMALL)
    return restore(
        model, A, y.expand(MANY, *y.shape[1:]), solver, seeds=range(MANY), sigma=SIGMA
    ).images.flatten(1)


@pytest.mark.parametrize("method", ["dds", "diffpir", "pigdm", "dps"])
def test_where_nothing_is_measured_the_prior_is_drawn(method: str) -> None:
    """Its mean to 0.2 deviations; its deviations as far as 100 steps go, up to 20 % short of them."""
    A = operators.build("inpainting", mask="given", masks=torch.zeros(1, 1, 2, 2))
    found = drawn(method, A, torch.zeros(1, *SMALL, dtype=torch.float64))
    deviation = NARROW.covariance.diagonal().sqrt()
    assert float(((found.mean(0) - NARROW.mean) / deviation).abs().max()) < 0.2
    ratios = found.std(0) / deviation
    assert float(ratios.min()) > 0.75 and float(ratios.max()) < 1.1


@pytest.mark.parametrize(
    ("method", "settings", "farthest", "least", "most"),
    [
        ("pigdm", {}, 0.25, 0.45, 0.75),
        ("dps", {"step_size": 0.1}, 0.3, 0.55, 0.95),
        ("diffpir", {"weight": 1.0}, 0.45, 0.55, 0.95),
        ("dds", {"weight": 8.0}, 0.3, 0.7, 1.15),  # that of the paper, 1, knows no noise and ends near y
    ],
)
def test_what_is_drawn_is_near_the_posterior(
    method: str, settings: dict[str, Any], farthest: float, least: float, most: float
) -> None:
    """Of noisy images: the mean within so many posterior deviations of its mean, the deviations' share.

    The posterior's mean is 0.9 of them from the prior's, as it is from y: neither is near. Its deviations are
    half of the prior's.
    """
    A, x = operators.build("denoising"), NARROW.draw(1, seed=3).view(1, *SMALL)
    y = A.measure(x, SIGMA, [torch.Generator().manual_seed(2)])
    posterior = NARROW.given(matrix(A, SMALL), y.flatten(1), SIGMA)
    deviation = posterior.covariance.diagonal().sqrt()
    found = drawn(method, A, y, **settings)
    assert float((found.mean(0) - posterior.mean[0]).norm() / deviation.norm()) < farthest
    ratios = found.std(0) / deviation
    assert least < float(ratios.min()) and float(ratios.max()) < most
