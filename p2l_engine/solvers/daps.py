"""Latent DAPS (Zhang et al., CVPR 2025): decoupled annealing. Each step forgets where the last one came from.

| symbol | code | meaning |
|---|---|---|
| z_t | z | latent at alpha_bar = a; z_t / sqrt(a) has noise of deviation sigma_t = sqrt((1 - a) / a) |
| z_0(z_t) | z0 | end of the probability flow from z_t, by DDIM |
| z_0 | z_y | drawn from exp(-|z_0 - z_0(z_t)|^2 / (2 sigma_t^2) - |y - A D(z_0)|^2 / tau^2) |
| v | v | velocity of the Hamiltonian dynamics that draw it |
| eta_t | eta | its step size, from `step_size` to a share `last` of it |

The noise levels are those of Karras et al. (2022), each the nearest that the model was trained at. As in the
authors' code sigma_min is that after the last step, which ends clean instead: the last one visited lies above
it, 0.116 by default. The authors' exponent has |y - A x|^2 / tau^2 without a half: noise of deviation sigma
has tau = sqrt(2) sigma.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from p2l_engine.mistakes import refuse
from p2l_engine.priors.base import LatentPrior, Prior
from p2l_engine.schedule import Step, ddim_step, posterior_mean
from p2l_engine.settings import Settings
from p2l_engine.solvers.base import LatentSampler, LatentState, Problem
from p2l_engine.solvers.parts.classifier_free import predict_guided, unread
from p2l_engine.solvers.parts.guidance import fidelity

CURVATURE = 7  # rho of Karras et al.
LEAST_SIGMA = 1e-3  # of the levels that space the probability flow; in its place the flow ends at 0


class Dynamics(Settings):
    """Hamiltonian Monte Carlo with damping. iterations: of each step, each through the decoder and back.

    momentum: the share of the velocity that is kept; 0 is Langevin dynamics. tau: of the measurement.
    """

    iterations: int = Field(default=30, ge=1)
    step_size: float = Field(default=1e-4, gt=0)
    last: float = Field(default=1.0, gt=0, le=1)
    momentum: float = Field(default=0.45, ge=0, lt=1)
    tau: float = Field(default=0.01, gt=0)


@dataclass(frozen=True)
class DAPSState(LatentState):
    """null: embedding of the null text (B, L, D)."""

    null: Tensor


class DAPS(LatentSampler):
    """sigma_max, sigma_min: ends of the annealing. flow_steps: of each step's probability flow.

    guidance_scale, null_prompt: of classifier-free guidance, with which a step of the flow takes two network
    calls; at a scale of 1, without the null prompt, one.
    """

    name: Literal["daps"] = "daps"
    steps: int = Field(default=50, ge=1)
    sigma_max: float = Field(default=10.0, gt=0)
    sigma_min: float = Field(default=0.1, gt=0)
    flow_steps: int = Field(default=2, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0)
    null_prompt: str = ""
    dynamics: Dynamics = Dynamics()

    @model_validator(mode="after")
    def _annealed(self) -> Self:
        low, high = self.sigma_min, self.sigma_max
        refuse([f"sigma_min: got {low}; allowed: below sigma_max, {high}"] if low >= high else [])
        return self

    def schedule(self, prior: Prior) -> Sequence[Step]:
        if self.steps > (most := len(prior.process.alphas_cumprod)):
            raise ValueError(
                f"steps: got {self.steps}; allowed: 1 to {most}, which the model was trained with"
            )
        levels = _levels(prior, self.sigma_max, self.sigma_min, self.steps)[:-1]
        return [
            Step(self.steps - k, t, a, levels[k + 1][1] if k + 1 < self.steps else 1.0)
            for k, (t, a) in enumerate(levels)
        ]

    def misfits(self, model: Any) -> list[str]:
        found, most = super().misfits(model), _sigma(model.process.alphas_cumprod[-1].item())
        if self.sigma_max > most:
            found.append(f"sigma_max: got {self.sigma_max}; allowed: up to {most:.4g}, the model's own")
        return found

    def asks_of_model(self) -> bool:
        return super().asks_of_model() or self.sigma_max != type(self).model_fields["sigma_max"].default

    def doubts(self) -> list[str]:
        return super().doubts() + unread(self.guidance_scale, self.null_prompt)

    def brief(self) -> Self:
        return self.model_copy(update={"dynamics": self.dynamics.model_copy(update={"iterations": 2})})

    def start(self, prior: LatentPrior, problem: Problem) -> DAPSState:
        assert problem.C is not None
        z = (1 - self.schedule(prior)[0].alpha_bar) ** 0.5 * problem.first_latents(prior)
        null = prior.embed_prompts([self.null_prompt] * len(z)).to(problem.C)
        return DAPSState(z, problem.C, null)

    def step(self, prior: LatentPrior, problem: Problem, state: DAPSState, at: Step) -> DAPSState:
        z0 = self._flow(prior, state, at)
        z = self._dynamics(prior, problem, z0, at)
        if at.number > 1:
            z = at.alpha_bar_prev**0.5 * z + (1 - at.alpha_bar_prev) ** 0.5 * problem.noise(z)
        return DAPSState(z, state.C, state.null)

    def images(self, prior: LatentPrior, problem: Problem, state: DAPSState) -> Tensor:
        return prior.decode(state.z)

    @torch.no_grad()
    def _flow(self, prior: LatentPrior, state: DAPSState, at: Step) -> Tensor:
        """z_0(z_t). A DDIM step is Euler's on the flow."""
        levels = _levels(prior, _sigma(at.alpha_bar), LEAST_SIGMA, self.flow_steps)[1:-1]
        z, (t, a) = state.z, (at.t, at.alpha_bar)
        for next_t, next_a in [*levels, (-1, 1.0)]:
            eps = predict_guided(prior, z, t, state.C, state.null, self.guidance_scale)
            z = ddim_step(posterior_mean(z, eps, a), eps, next_a)
            t, a = next_t, next_a
        return z

    def _dynamics(self, prior: LatentPrior, problem: Problem, z0: Tensor, at: Step) -> Tensor:
        setting, variance = self.dynamics, _sigma(at.alpha_bar) ** 2
        passed = (self.steps - at.number) / (self.steps + 1)
        eta = setting.step_size * (1 + passed * (setting.last - 1))
        z, v = z0, problem.noise(z0)
        for _ in range(setting.iterations):
            z = z.detach().requires_grad_()
            distance = fidelity(problem.A, problem.y, prior.sketch(z), "squared")
            (gradient,) = torch.autograd.grad(distance.sum(), z)
            score = (z0 - z) / variance - gradient / setting.tau**2
            kick = (2 * (1 - setting.momentum)) ** 0.5 * problem.noise(z)
            v = setting.momentum * v + eta**0.5 * score + kick
            z = z + eta**0.5 * v
        return z.detach()


def _levels(prior: Prior, largest: float, least: float, steps: int) -> list[tuple[int, float]]:
    """Timestep and alpha_bar of steps + 1 noise levels from the largest sigma to the least."""
    table = prior.process.alphas_cumprod
    sigmas = ((1 - table) / table).sqrt().log()
    ends = largest ** (1 / CURVATURE), least ** (1 / CURVATURE)
    wanted = torch.linspace(*ends, steps + 1, dtype=torch.float64).pow(CURVATURE).log()
    nearest = (wanted[:, None] - sigmas).abs().argmin(dim=1).tolist()
    return [(t, table[t].item()) for t in nearest]


def _sigma(alpha_bar: float) -> float:
    return ((1 - alpha_bar) / alpha_bar) ** 0.5
