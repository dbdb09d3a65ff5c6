"""ReSample (Song, Kwon, Zhang, Hu, Qu, Shen, ICLR 2024): hard data consistency, and noise put back on it.

| symbol | code | meaning |
|---|---|---|
| z'_{t-1} | z | after a DDIM step less the gradient of |y - A D(z_0|t)|, as in LDPS |
| z_0 | z0 | estimate some DDIM steps further on |
| z_0(y) | z_y | a latent nearby that fits the measurement |
| a, a' | at.alpha_bar, at.alpha_bar_prev | share of signal before and after the step |
| sigma^2 | variance | spread (1 - a') / (1 - a) (1 - a / a') |

The first third of the steps is guided only. In the second the image D(z_0) is optimised, then encoded; in the
last the latent itself is, and so is the result. As in the authors' code, but for two slips of it: Tweedie's
formula has the square root of 1 - a, and the steps ahead are taken at their own noise levels.

Not as in their code either: an optimisation of the image too ends when it gained nothing for long, where
theirs goes on to the last iteration, and into the noise of a blur; each image ends its own, where their loss
is of the batch; an image is encoded to the mean.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.priors.base import LatentPrior
from p2l_engine.schedule import Step, ddim_step, posterior_mean
from p2l_engine.settings import Settings
from p2l_engine.solvers.base import LatentSampler, LatentState, Problem, doubted
from p2l_engine.solvers.parts.guidance import Guidance, Moments, fidelity, gradient_at, traced, update

PATIENCE = 200  # iterations, after which an optimisation that gained nothing ends


class Optimisation(Settings):
    """AdamW down the mean square of y - A x. tolerance: of its root, at which an image is done."""

    learning_rate: float = Field(gt=0)
    iterations: int = Field(ge=1)
    tolerance: float = Field(default=1e-3, ge=0)


@dataclass(frozen=True)
class ReSampleState(LatentState):
    """moments: of the gradient, of the shape of z."""

    moments: Moments


class ReSample(LatentSampler):
    """every: steps from one consistency to the next. ahead: DDIM steps that its estimate is further on.

    spread: how much of the estimate, and how little of z'_{t-1}, the resampled latent has. pixel, latent: of
    the second and the last third.
    """

    name: Literal["resample"] = "resample"
    steps: int = Field(default=500, ge=1)
    every: int = Field(default=10, ge=1)
    ahead: int = Field(default=5, ge=1)
    spread: float = Field(default=40.0, gt=0)
    pixel: Optimisation
    latent: Optimisation
    guidance: Guidance

    @classmethod
    def defaults(cls, name: str) -> dict[str, Any]:
        return {
            "pixel": {"learning_rate": 1e-2, "iterations": 2000},
            "latent": {"learning_rate": 5e-3, "iterations": 500},
            "guidance": {"step_size": 0.5, "step_schedule": "alpha_bar"},
        }

    def start(self, prior: LatentPrior, problem: Problem) -> ReSampleState:
        z = problem.first_latents(prior)
        assert problem.C is not None
        return ReSampleState(z, problem.C, Moments.zeros(z))

    def step(self, prior: LatentPrior, problem: Problem, state: ReSampleState, at: Step) -> ReSampleState:
        z, stage = traced(state.z, self.guidance), self._stage(at)
        eps = prior.predict_noise(z, at.t, state.C)
        z0 = posterior_mean(z, eps, at.alpha_bar).requires_grad_()
        gradient = gradient_at(prior, problem, z, z0, prior.sketch(z0), at, self.guidance)
        change, moments = update(gradient, state.moments, self.guidance, at.alpha_bar, self.steps)
        z = ddim_step(z0, eps, at.alpha_bar_prev).detach() - change
        if stage in ("pixel", "latent"):
            z0 = self._further_on(prior, state.C, z, at)
            z_y = self._fitted(prior, problem, z0) if stage == "latent" else self._painted(prior, problem, z0)
            z = self._resampled(problem, z_y, z, at)
        elif stage == "result":
            z = self._fitted(prior, problem, z)
        return ReSampleState(z, state.C, moments)

    def images(self, prior: LatentPrior, problem: Problem, state: ReSampleState) -> Tensor:
        return prior.decode(state.z)

    def doubts(self) -> list[str]:
        found = super().doubts() + doubted(self.steps, guidance=self.guidance)
        if not any(self._stage(Step(number)) in ("pixel", "latent") for number in range(1, self.steps + 1)):
            found.append(
                f"every is {self.every}: of the {self.steps} steps only the last fits the measurement"
            )
        return found

    def brief(self) -> Self:
        few = {"iterations": 2}
        pixel, latent = self.pixel.model_copy(update=few), self.latent.model_copy(update=few)
        return self.model_copy(update={"pixel": pixel, "latent": latent})

    def kind(self, at: Step) -> Hashable:
        stage = self._stage(at)
        return stage, min(self.ahead, at.number - 1) if stage in ("pixel", "latent") else 0

    def _stage(self, at: Step) -> Literal["guided", "pixel", "latent", "result"]:
        left, third = at.number - 1, self.steps // 3
        if left == 0:
            return "result"
        if left % self.every or left > self.steps - third:
            return "guided"
        return "pixel" if left >= third else "latent"

    @torch.no_grad()
    def _further_on(self, prior: LatentPrior, C: Tensor, z: Tensor, at: Step) -> Tensor:
        """z_0, after the DDIM steps that follow this one."""
        first = self.steps - at.number + 1
        for later in self.schedule(prior)[first : first + self.ahead]:
            eps = prior.predict_noise(z, later.t, C)
            z0 = posterior_mean(z, eps, later.alpha_bar)
            z = ddim_step(z0, eps, later.alpha_bar_prev)
        return z0

    def _painted(self, prior: LatentPrior, problem: Problem, z0: Tensor) -> Tensor:
        with torch.no_grad():
            x0 = prior.decode(z0)
        x_y = minimise(lambda x: mismatch(problem, x), x0, self.pixel)
        with torch.no_grad():
            return prior.encode(x_y)

    def _fitted(self, prior: LatentPrior, problem: Problem, z0: Tensor) -> Tensor:
        return minimise(lambda z: mismatch(problem, prior.sketch(z)), z0, self.latent)

    def _resampled(self, problem: Problem, z_y: Tensor, z: Tensor, at: Step) -> Tensor:
        """A draw from what z_0(y) and z'_{t-1} say of the latent at t - 1."""
        a, after = at.alpha_bar, at.alpha_bar_prev
        variance = self.spread * (1 - after) / (1 - a) * (1 - a / after)
        noise = 1 - after
        mean = (variance * after**0.5 * z_y + noise * z) / (variance + noise)
        return mean + (1 / (1 / variance + 1 / noise)) ** 0.5 * problem.noise(z)


def mismatch(problem: Problem, x: Tensor) -> Tensor:
    """Mean square of y - A x, of each image: (B,)."""
    return fidelity(problem.A, problem.y, x, "squared") / problem.y[0].numel()


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, setting: Optimisation) -> Tensor:
    """AdamW from `start` (B, ...) down a loss (B, ...) -> (B,). An image that is done stands still."""
    x = start.detach().clone().requires_grad_()
    adam = torch.optim.AdamW([x], lr=setting.learning_rate)
    losses: list[Tensor] = []
    active = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for iteration in range(setting.iterations):
        value = loss(x)
        (x.grad,) = torch.autograd.grad(value.sum(), x)
        before = x.detach().clone()
        adam.step()
        with torch.no_grad():
            x.copy_(torch.where(active.view(-1, *[1] * (x.ndim - 1)), x, before))
        losses.append(value.detach())
        active = active & (losses[-1] >= setting.tolerance**2)
        if iteration >= PATIENCE:
            active = active & (losses[-1] <= losses[-1 - PATIENCE])
        if not active.is_meta and not active.any():  # without data there is no knowing
            break
    return x.detach()
