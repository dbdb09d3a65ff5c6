"""The closed forms that solvers are held against, held against definitions and each other."""

import pytest
import torch

from p2l_engine import operators
from tests.p2l_engine.gaussian_prior import Gaussian, GaussianPixels, matrix

SHAPE = (3, 4, 4)
D = 48


def test_the_denoiser_is_the_posterior_mean_of_a_measurement_by_noise() -> None:
    """x_t measures x_0 by A = sqrt(a) I, sigma = sqrt(1 - a): two ways to one Gaussian."""
    prior, a = Gaussian.random(D), 0.3
    x_t = prior.noised(a).draw(3)
    posterior = prior.given(a**0.5 * torch.eye(D, dtype=torch.float64), x_t, (1 - a) ** 0.5)
    torch.testing.assert_close(prior.denoised(x_t, a), posterior.mean)
    torch.testing.assert_close(prior.uncertainty(a), posterior.covariance)


def test_the_predicted_noise_gives_the_denoiser_back() -> None:
    model = GaussianPixels(Gaussian.random(D), SHAPE)
    at = model.schedule(10).steps[4]
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    eps = model.predict_noise(x, at.t)
    x0 = (x - (1 - at.alpha_bar) ** 0.5 * eps) / at.alpha_bar**0.5
    torch.testing.assert_close(x0.flatten(1), model.gaussian.denoised(x.flatten(1), at.alpha_bar))
    assert model.evaluations == 2


def test_the_score_is_the_gradient_of_the_density() -> None:
    prior = Gaussian.random(5)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    density = torch.distributions.MultivariateNormal(prior.mean, prior.covariance).log_prob(x)
    (gradient,) = torch.autograd.grad(density.sum(), x)
    torch.testing.assert_close(prior.score(x), gradient)


def test_the_posterior_minimises_what_its_density_says() -> None:
    """Prior's and likelihood's gradients together are nought at its mean, their curvature its covariance."""
    prior, sigma = Gaussian.random(D), 0.2
    A = operators.build("super_resolution", factor=2)
    rows = matrix(A, SHAPE)
    y = torch.randn(2, len(rows), dtype=torch.float64)
    posterior = prior.given(rows, y, sigma)
    likelihood = (y - posterior.mean @ rows.T) @ rows / sigma**2
    assert float((prior.score(posterior.mean) + likelihood).abs().max()) < 1e-9
    curvature = torch.linalg.inv(prior.covariance) + rows.T @ rows / sigma**2
    torch.testing.assert_close(posterior.covariance, torch.linalg.inv(curvature))


def test_draws_have_the_mean_and_the_covariance() -> None:
    prior = Gaussian.random(4)
    drawn = prior.draw(200_000)
    assert drawn.mean(0).tolist() == pytest.approx(prior.mean.tolist(), abs=3e-3)
    torch.testing.assert_close(drawn.T.cov(), prior.covariance, rtol=0, atol=3e-3)
