"""TReg (Kim, Park, Chung, Ye, ICLR 2025; Eq. 46-50 of P2L's paper): texts as the regularisation.

| symbol | code | meaning |
|---|---|---|
| C, C_0 | C, null | text embedding; that of the null text, which is tuned |
| eps | eps | predicted noise, guided from C_0 to C |
| z_0|t, x_0 | z0, x0 | posterior mean (Eq. 14) and its image (Eq. 46) |
| x_0(y) | x_y | nearest image that fits the measurement (Eq. 47) |
| z_0(y) | z_y | its latent (Eq. 48) |
| a' | after | alpha_bar_{t-1}; 1 at the last step, which ends at z_0|t, or z_0(y) if it has data |

Where the authors' code and P2L's text differ, the code is the default: data steps at every third step up to
85 % of all, with fresh noise; no gradient (Eq. 50), which is added at every step where `guidance` is set. The
guidance scale of 7.5 is P2L's; their program has 4, their examples 5 and a null prompt (preset `authors`).

Not as in their code: the encoder's mean is taken, where they sample. Noise levels are those of the timestep
that the network is given, where they read those of one timestep below. A guidance scale of 1 leaves the
prompt, where they predict from the null text alone.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.priors.base import LatentPrior
from p2l_engine.schedule import Step, ddim_step, posterior_mean
from p2l_engine.settings import Settings
from p2l_engine.solvers.base import LatentSampler, LatentState, Problem, doubted
from p2l_engine.solvers.parts.classifier_free import predict_guided, unread
from p2l_engine.solvers.parts.guidance import Guidance, Moments, gradient_at, traced, update
from p2l_engine.solvers.parts.negation import Negation, negate


class DataConsistency(Settings):
    """Eq. 47 at every `every`-th step, the first included, of the first `until` of all.

    weight: lambda beside |y - A x|^2, where Eq. 47 has it beside |y - A x|^2 / (2 sigma^2). iterations: of
    conjugate gradients from x_0; null: until they converge, which with so small a weight lets the noise of y
    through where A is weak.
    """

    every: int = Field(default=3, ge=1)
    until: float = Field(default=0.85, gt=0, le=1)
    weight: float = Field(default=1e-4, gt=0)
    iterations: int | None = Field(default=5, ge=1, le=1000)


@dataclass(frozen=True)
class TRegState(LatentState):
    """null: embedding of the null text (B, L, D), as it is now. moments: of the gradient, as z."""

    null: Tensor
    moments: Moments


class TReg(LatentSampler):
    """guidance_scale: of classifier-free guidance; null_prompt: the text it leads away from.

    negation: none unless a tower is named. guidance: the gradient of Eq. 50, with `residual: squared` as it
    is printed.
    """

    name: Literal["treg"] = "treg"
    steps: int = Field(default=200, ge=1)
    guidance_scale: float = Field(default=7.5, ge=0)
    null_prompt: str = ""
    data: DataConsistency = DataConsistency()
    negation: Negation | None = None
    guidance: Guidance | None = None

    def start(self, prior: LatentPrior, problem: Problem) -> TRegState:
        z = problem.first_latents(prior)
        assert problem.C is not None
        null = prior.embed_prompts([self.null_prompt] * len(z)).to(problem.C)
        return TRegState(z, problem.C, null, Moments.zeros(z))

    def step(self, prior: LatentPrior, problem: Problem, state: TRegState, at: Step) -> TRegState:
        z, null, moments = traced(state.z, self.guidance), state.null, state.moments
        after = 1.0 if at.number == 1 else at.alpha_bar_prev
        with torch.set_grad_enabled(self.guidance is not None):
            eps = predict_guided(prior, z, at.t, state.C, null, self.guidance_scale)
            z0 = posterior_mean(z, eps, at.alpha_bar)
            if self.guidance is not None:
                z0.requires_grad_()
            x0 = prior.sketch(z0) if self.guidance else None  # Eq. 46
        z_next = ddim_step(z0, eps, after).detach()
        if self._has_data(at):
            with torch.no_grad():
                decoded = prior.decode(z0) if x0 is None or prior.sketches else x0
                x_y = fit_measurement(problem, decoded.detach(), self.data)
                z_y = prior.encode(x_y)  # Eq. 48
                if self.negation is not None:
                    null = negate(self.negation.loaded(prior), x_y, null, self.negation)  # Eq. 49
                mean = after * z_y + (1 - after) * z0
                spread = (1 - after) ** 0.5 * after**0.5
                z_next = after**0.5 * mean + (1 - after) * eps + spread * problem.noise(z)
        if x0 is not None and self.guidance is not None:  # Eq. 50
            gradient = gradient_at(prior, problem, z, z0, x0, at, self.guidance)
            change, moments = update(gradient, moments, self.guidance, at.alpha_bar, self.steps)
            z_next = z_next - change
        return TRegState(z_next.detach(), state.C, null.detach(), moments)

    def images(self, prior: LatentPrior, problem: Problem, state: TRegState) -> Tensor:
        return prior.decode(state.z)

    def misfits(self, model: Any) -> list[str]:
        of_tower = [] if self.negation is None else self.negation.misfits(model.text_width)
        return super().misfits(model) + of_tower

    def asks_of_model(self) -> bool:
        return super().asks_of_model() or self.negation is not None

    def doubts(self) -> list[str]:
        found = super().doubts() + doubted(self.steps, guidance=self.guidance)
        found += unread(self.guidance_scale, self.null_prompt)
        if self.negation is None:
            found.append("negation is null: TReg without what moves its null text; name a tower, or a preset")
        elif self.guidance_scale == 1:
            found.append("negation is set, but at a guidance_scale of 1 nothing reads the null text it moves")
        return found

    def load(self, prior: LatentPrior) -> int:
        tower = 0 if self.negation is None else self.negation.loaded(prior).weight_bytes
        return super().load(prior) + tower

    def differentiates(self) -> bool:
        return self.guidance is not None

    def kind(self, at: Step) -> Hashable:
        return self._has_data(at)

    def _has_data(self, at: Step) -> bool:
        index = self.steps - at.number
        return index % self.data.every == 0 and index < self.data.until * self.steps


def fit_measurement(problem: Problem, x0: Tensor, setting: DataConsistency) -> Tensor:
    """x_0(y), Eq. 47, of x0 (B, 3, H, W)."""
    if setting.iterations is None:
        return problem.A.proximal(problem.y, x0, setting.weight)
    return problem.A.proximal_early(problem.y, x0, setting.weight, setting.iterations)
