"""LATINO and LATINO-PRO against a second writing of their loops, one image at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.mistakes import Mistakes
from p2l_engine.operators import discrepancy
from p2l_engine.operators.base import LinearOperator
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.seeding import generator
from p2l_engine.solvers.latino import Latino
from p2l_engine.solvers.parts.prompt_ascent import PromptAscent, ascend
from tests.p2l_engine.cases import CASES, follows, independent, tuned_prompt
from tests.p2l_engine.gaussian_prior import matrix

SHAPE = (3, 16, 16)
METHODS: dict[str, Any] = {
    "latino": methods.build("latino", steps=4, discrepancy=50.0),
    "the authors' delta": methods.build(
        "latino", steps=8, grid=50, delta={"early": 2e-5, "late": 1e-5, "split": 300}
    ),
    "delta over the noise": methods.build(
        "latino", steps=4, delta={"early": 1e-7, "late": 5e-8, "split": 499, "of": "residual_by_noise"}
    ),
    "delta alone": methods.build(
        "latino", steps=4, delta={"early": 1e-4, "late": 5e-5, "split": 500, "of": "one"}
    ),
    "latino, P2L's prompt": methods.build(
        "latino", steps=4, discrepancy=50.0, prompt_tuning={"iterations": 2, "learning_rate": 0.01}
    ),
    "latino_pro": methods.build(
        "latino_pro", steps=4, discrepancy=50.0, prompt_ascent={"rounds": 2, "step_size": 2.0, "radius": 3.0}
    ),
}
TIMES = {
    (4, None): [999, 749, 499, 249],
    (8, 50): [999, 879, 759, 639, 499, 379, 259, 139],
}
SIGMA = 2 / 255 / 12**0.5  # of y without noise, rounded to 8 bits


@dataclass
class Spectrum:
    """A of one image as a matrix, by the eigenvalues and eigenvectors of A A^T."""

    measured: Tensor
    values: Tensor
    vectors: Tensor

    def proximal(self, y: Tensor, u: Tensor, lam: float) -> Tensor:
        r = self.residual(y, u) / (self.values + lam)
        return u + (self.measured.T @ self.vectors @ r).view_as(u)

    def by_discrepancy(self, y: Tensor, u: Tensor, square: float) -> float:
        """lambda, by halving an interval of it, at which |y - A x|^2 is so large."""
        low, high = 1e-6, 1e6
        for _ in range(100):
            lam = (low * high) ** 0.5
            size = float((self.residual(y, u) / (1 + self.values / lam)).square().sum())
            low, high = (lam, high) if size < square else (low, lam)
        return lam

    def residual(self, y: Tensor, u: Tensor) -> Tensor:
        return self.vectors.T @ (y.flatten() - self.measured @ u.flatten())


def reference(
    model: LatentDiffusion, A: LinearOperator, y: Tensor, z: Tensor, C: Tensor, method: Latino, seed: int
) -> Tensor:
    source, abar, measured = generator(seed, "solver"), model.process.alphas_cumprod, matrix(A, SHAPE)
    spectrum = Spectrum(measured, *torch.linalg.eigh(measured @ measured.T))
    entries, first, total = float(A.entries(y)), C, torch.zeros_like(C)

    def noised(z: Tensor, t: int, n: Tensor) -> Tensor:
        return abar[t].sqrt() * z + (1 - abar[t]).sqrt() * n

    def draw() -> Tensor:
        return torch.randn(z.shape[1:], generator=source).to(z)[None]

    def data_step(z0: Tensor, t: int) -> Tensor:
        with torch.no_grad():
            u = model.decode(z0).clip(-1, 1)
            if method.delta is None:
                lam = spectrum.by_discrepancy(y, u, (method.discrepancy * SIGMA) ** 2 * entries)
            else:
                delta = method.delta.early if t > method.delta.split else method.delta.late
                size = float((y - A(u)).square().sum().sqrt())
                delta *= {"one": 1.0, "residual": size, "residual_by_noise": size / SIGMA}[method.delta.of]
                lam = float(SIGMA**2 / (delta * (1 - abar[t])))
            return model.encode(spectrum.proximal(y, u, lam).clip(-1, 1))

    def predicted(z: Tensor, t: int, C: Tensor) -> Tensor:
        return (z - (1 - abar[t]).sqrt() * model.predict_noise(z, t, C)) / abar[t].sqrt()

    with torch.no_grad():
        z = noised(model.encode(A.backproject(y).clip(-1, 1)), 999, z)
    if method.prompt_ascent is not None:
        ascent = method.prompt_ascent
        for _ in range(ascent.rounds):
            times = TIMES[ascent.steps, None]
            for t, after in zip(times, [*times[1:], 999], strict=True):
                C = C.detach().requires_grad_()
                z0 = predicted(z, t, C)
                z = noised(data_step(z0, t), after, draw())
                if after != 999:
                    loss = -(z - abar[after].sqrt() * z0).square().sum() / (2 * (1 - abar[after]))
                    g = torch.autograd.grad(loss, C)[0]
                    g = g / g.norm(dim=-1, keepdim=True)
                    g[:, :4] = 0
                    total = total + g
            C = C.detach() + ascent.step_size * total
            for token in range(C.shape[1]):
                away = C[:, token] - first[:, token]
                if float(away.norm()) > ascent.radius:
                    C[:, token] = first[:, token] + away / away.norm() * ascent.radius
    times, tuning = TIMES[method.steps, method.grid], method.prompt_tuning
    for k, t in enumerate(times):
        if tuning is not None:
            C = tuned_prompt(model, A, y, z, C, t, tuning.iterations, tuning.learning_rate)
        with torch.no_grad():
            z = data_step(predicted(z, t, C), t)
            if k + 1 < len(times):
                z = noised(z, times[k + 1], draw())
    return z


@pytest.mark.parametrize(("make", "count"), CASES)
@pytest.mark.parametrize("name", METHODS)
def test_the_loop_is_the_authors_algorithm(
    random_model: LatentDiffusion,
    name: str,
    make: Callable[[slice], LinearOperator],
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discrepancy, "ITERATIONS", 80)  # to the end
    method = METHODS[name]
    rounds = 2 * 4 if method.prompt_ascent else 0
    tuned = 2 * method.steps if method.prompt_tuning else 0
    assert follows(reference, random_model, method, make, count) == rounds + tuned + method.steps


@pytest.mark.parametrize("name", ["latino", "the authors' delta", "latino, P2L's prompt", "latino_pro"])
def test_an_image_does_not_depend_on_its_neighbours(random_model: LatentDiffusion, name: str) -> None:
    independent(random_model, METHODS[name])


def test_latino_pro_is_as_long_as_the_authors_and_gives_the_tuned_prompt(
    random_model: LatentDiffusion,
) -> None:
    method = methods.build("latino_pro")
    times = [at.t for at in method.schedule(random_model)]
    assert times == 15 * [999, 749, 499, 249] + [999, 874, 749, 624, 499, 374, 249, 124]
    A, y = operators.build("super_resolution", factor=4), torch.zeros(1, 3, 4, 4)
    short = methods.build("latino_pro", prompt_ascent={"rounds": 2})
    out = restore(random_model, A, y, short, prompts=["a red square on blue stripes"])
    assert out.prompt_embeddings is not None
    moved = (out.prompt_embeddings - random_model.embed_prompts(["a red square on blue stripes"])).norm(
        dim=-1
    )
    assert float(moved[:, :4].max()) == 0 and float(moved[:, 4:].min()) > 0


@pytest.mark.parametrize(("done", "share"), [(0, 1), (10, 1), (12, 0.81), (500, 0.001)])
def test_the_ascent_slows_down_after_ten_rounds_and_stays_in_its_ball(done: int, share: float) -> None:
    """By 0.08 of the directions, the second of which is too long."""
    start = torch.ones(1, 2, 3, dtype=torch.float64)
    directions = torch.tensor([[[100.0, 0, 0], [0, 3e6, 4e6]]], dtype=torch.float64)
    moved = ascend(start, start, directions, done, PromptAscent(radius=300.0))
    expected = torch.tensor([[[1 + 8 * share, 1, 1], [1, 1 + 180, 1 + 240]]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=0)


def test_the_result_is_the_last_image_or_its_latent_decoded(random_model: LatentDiffusion) -> None:
    A = operators.build("super_resolution", factor=4)
    y = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    image, latent = (
        restore(random_model, A, y, methods.build("latino", result=result), sigma=0.05)
        for result in ("image", "latent")
    )
    assert image.latents is not None and latent.latents is not None
    torch.testing.assert_close(image.latents, latent.latents, rtol=0, atol=0)
    decoded = random_model.decode(latent.latents).clamp(-1, 1)
    torch.testing.assert_close(latent.images, decoded, rtol=0, atol=1e-12)
    # A random network's images are far from y; the last step leaves as much as the noise, but for the range.
    torch.testing.assert_close(image.residual, torch.full_like(image.residual, 0.05), rtol=0.1, atol=0)
    assert float(latent.residual.min()) > 0.1


def test_a_grid_that_the_model_does_not_have_and_a_prompt_that_stays_are_refused(
    random_model: LatentDiffusion,
) -> None:
    A, y = operators.build("denoising"), torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match="grid: got 2000; allowed: 1 to 1000"):
        restore(random_model, A, y, methods.build("latino", grid=2000))
    with pytest.raises(ValueError, match=r"prompt_ascent.fixed_tokens: got 500; allowed: 0 to \d+$"):
        restore(random_model, A, y, methods.build("latino_pro", prompt_ascent={"fixed_tokens": 500}))


def test_more_steps_than_the_grid_has_are_refused(random_model: LatentDiffusion) -> None:
    with pytest.raises(Mistakes) as refused:
        methods.build("latino_pro", steps=8, grid=5, prompt_ascent={"steps": 6})
    assert refused.value.problems == [
        "steps: got 8; allowed: 1 to 5, the timesteps of the grid",
        "prompt_ascent.steps: got 6; allowed: 1 to 5, the timesteps of the grid",
    ]
    A, y = operators.build("denoising"), torch.zeros(1, 3, 16, 16)
    for grid, most in ((None, 1000), (50, 50)):
        with pytest.raises(ValueError, match=f"steps: got 1001; allowed: 1 to {most}"):
            restore(random_model, A, y, methods.build("latino", grid=grid), steps=1001)
