"""Latent samplers where all is known: Gaussian latents, a linear auto-encoder, an exact network."""

from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.operators.base import LinearOperator
from p2l_engine.schedule import Step, noise_beside, posterior_mean
from p2l_engine.solvers import Problem, Solver
from p2l_engine.solvers.treg import TReg
from tests.p2l_engine.gaussian_prior import Gaussian, GaussianLatents, matrix

SHAPE, LATENT = (3, 8, 8), (3, 4, 4)
COUNT, SIGMA = 150, 0.2


def prior_of(correlation: float) -> Any:
    """Latents about 0.3 of variance 1 that hang together with all others of their channel."""
    block = correlation * torch.ones(16, 16, dtype=torch.float64)
    block += (1 - correlation) * torch.eye(16, dtype=torch.float64)
    return GaussianLatents(
        Gaussian(torch.full((48,), 0.3, dtype=torch.float64), torch.block_diag(*[block] * 3))
    )


def posed(prior: Any, A: LinearOperator, sigma: float) -> tuple[Tensor, Gaussian]:
    """A measurement of a drawn latent (1, *measurement), and the posterior of that latent."""
    z = prior.gaussian.draw(1, seed=1).view(1, *LATENT)
    y = A.measure(prior.decode(z), sigma, [torch.Generator().manual_seed(0)])
    decoder = torch.stack([prior.decode(row.view(1, *LATENT)).flatten() for row in torch.eye(48).double()]).T
    return y, prior.gaussian.given(matrix(A, SHAPE) @ decoder, y.flatten(1), sigma)


def samples(prior: Any, A: LinearOperator, y: Tensor, solver: Solver) -> Tensor:
    out = restore(prior, A, y.expand(COUNT, *y.shape[1:]), solver, seeds=range(COUNT), sigma=SIGMA).latents
    assert out is not None
    return out.flatten(1)


def half_seen() -> LinearOperator:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    mask[..., :4] = 1
    return operators.build("inpainting", mask="given", masks=mask)


DYNAMICS = {"iterations": 25, "step_size": 2e-3, "momentum": 0.5, "tau": 2**0.5 * SIGMA}


@pytest.mark.parametrize("operator", ["pooled", "half seen"])
def test_daps_draws_from_the_posterior(operator: str) -> None:
    """Each latent's mean to 0.2 of the prior's deviation, the variances to a fifth on average."""
    prior = prior_of(0.5)
    A = operators.build("super_resolution", factor=4) if operator == "pooled" else half_seen()
    y, posterior = posed(prior, A, SIGMA)
    found = samples(prior, A, y, methods.build("daps", steps=30, guidance_scale=1.0, dynamics=DYNAMICS))
    assert float((found.mean(dim=0) - posterior.mean[0]).square().mean().sqrt()) < 0.2
    ratio = found.var(dim=0) / posterior.covariance.diag()
    assert 0.8 < float(ratio.mean()) < 1.25


def test_resample_fits_what_is_seen_and_draws_the_rest() -> None:
    """Of the others the mean to 0.2 of their deviation; the variance is less, by the way it resamples."""
    prior = prior_of(0.0)
    A = half_seen()
    y, posterior = posed(prior, A, 0.01)
    small = {"iterations": 40, "learning_rate": 0.05}
    method = methods.build("resample", steps=40, every=5, pixel=small, latent=small)
    found = samples(prior, A, y, method).view(COUNT, *LATENT)
    mean = posterior.mean.view(LATENT)
    assert float((found[..., :2] - mean[..., :2]).abs().mean()) < 0.02
    assert float((found[..., 2:].mean(dim=0) - mean[..., 2:]).square().mean().sqrt()) < 0.2
    assert 0.5 < float(found[..., 2:].var(dim=0).mean()) < 1.1


class Consistent(GaussianLatents):
    """Of N(m, s^2 I), m a text's first number: z_0|t is where the probability flow from z_t ends."""

    def predict_noise(self, z: Tensor, t: int, C: Tensor) -> Tensor:
        self.evaluations += len(z)
        a = self.process.alphas_cumprod[t].item()
        m, variance = C[:, :, :1, None], self.gaussian.covariance[0, 0]
        z0 = m + (z - a**0.5 * m) * (variance / (a * variance + 1 - a)).sqrt()
        return noise_beside(z, z0, a)


def consistent(y_mean: float) -> tuple[Any, LinearOperator, Tensor]:
    """The prior, and what is seen of latents about `y_mean`, COUNT times."""
    prior, A = Consistent(Gaussian.white(48, mean=y_mean, variance=0.0625)), half_seen()
    y, _ = posed(prior, A, SIGMA)
    return prior, A, y.expand(COUNT, *y.shape[1:])


def test_latino_leaves_the_noise_of_what_is_seen_and_draws_the_rest() -> None:
    """The rest are draws from the prior, the same in mean and variance to what 150 x 24 of them tell."""
    prior, A, y = consistent(0.3)
    told = torch.tensor([0.3, 9.0], dtype=torch.float64).expand(COUNT, 1, 2)
    method = methods.build("latino")
    out = restore(prior, A, y, method, prompt_embeddings=told, seeds=range(COUNT), sigma=SIGMA)
    assert out.latents is not None
    unseen = out.latents[..., 2:]
    assert float(unseen.mean()) == pytest.approx(0.3, abs=4 * 0.25 / 3600**0.5)
    assert float(unseen.var()) == pytest.approx(0.0625, rel=4 * (2 / 3600) ** 0.5)
    assert float(out.residual.max()) < 1.001 * SIGMA
    assert torch.equal(out.images[..., 4:], prior.decode(out.latents)[..., 4:].clamp(-1, 1))


@pytest.mark.parametrize("goal", [-1.5, 1.5])
def test_latino_pros_prompt_goes_to_what_makes_the_measurement_likely(goal: float) -> None:
    """From 0, by three draws of 0.08 up or down in a round; a number that tells nothing stays."""
    prior, A, y = consistent(goal)
    method = methods.build("latino_pro", prompt_ascent={"rounds": 1, "fixed_tokens": 0})
    out = restore(prior, A, y, method, seeds=range(COUNT), sigma=SIGMA)
    assert out.prompt_embeddings is not None
    moved, unread = out.prompt_embeddings[:, 0].unbind(dim=1)
    assert 0.1 < float(moved.mean()) * (1 if goal > 0 else -1) < 0.24
    assert float(unread.abs().max()) == 0
    # Three draws of which one is against the others, or none.
    assert float((moved.abs() - 0.16).abs().sub(0.08).abs().max()) < 1e-12


def test_treg_draws_the_prior_where_nothing_is_measured() -> None:
    """Without a scale of the texts. Each latent's mean to 0.2 of its deviation, the variances to a fourth."""
    prior, A = prior_of(0.5), operators.build("inpainting", mask="given", masks=torch.zeros(1, 1, 8, 8))
    y = torch.zeros(1, *SHAPE, dtype=torch.float64)
    found = samples(prior, A, y, methods.build("treg", steps=40, guidance_scale=1.0))
    assert float((found.mean(dim=0) - prior.gaussian.mean).square().mean().sqrt()) < 0.2
    assert 0.75 < float(found.var(dim=0).mean()) < 1.1


@pytest.mark.parametrize("iterations", [None, 50])
def test_tregs_data_step_is_the_minimum_of_equation_47_in_latents(iterations: int | None) -> None:
    """Where the next alpha_bar is nearly 1, the step ends at z_0(y), solved for as a matrix."""
    prior, A, weight = prior_of(0.5), operators.build("super_resolution", factor=4), 0.05
    y, _ = posed(prior, A, SIGMA)
    method = methods.build("treg", guidance_scale=1.0, data={"weight": weight, "iterations": iterations})
    assert isinstance(method, TReg)
    at = Step(method.steps, 500, prior.process.alphas_cumprod[500].item(), 1 - 1e-15)
    problem = Problem.of(A, y, SIGMA, [0], prior.embed_prompts([""]))
    state = method.start(prior, problem)
    z0 = posterior_mean(state.z, prior.predict_noise(state.z, at.t, state.C), at.alpha_bar)
    measured = matrix(A, SHAPE)
    right = y.flatten() @ measured + weight * prior.decode(z0).flatten()
    fitted = torch.linalg.solve(measured.T @ measured + weight * torch.eye(192, dtype=torch.float64), right)
    expected = prior.encode(fitted.view(1, *SHAPE))
    torch.testing.assert_close(method.step(prior, problem, state, at).z, expected, rtol=0, atol=1e-6)
