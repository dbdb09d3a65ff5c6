"""DDS, decomposed diffusion sampling (Chung et al., 2024): Eq. 53, 54.

| symbol | code | meaning |
|---|---|---|
| gamma | weight | of the prior's image in Eq. 53 |
| eta beta~_{t-1} | deviation | of the noise drawn anew, by one of two rules |
| eps | fresh | standard normal |

Eq. 53 is solved to the end, in closed form where the operator has one. Five iterations of conjugate
gradients, as the paper makes, end there too: with weight 1 they leave 2 (3 - 8^1/2)^5 = 3e-4 of the error at
most where A^T A has no eigenvalue above 1.

The authors' code draws anew a share of all noise (`noise: share`), 0.85 in 50 steps, where Eq. 54 takes that
of DDIM, in 100. For noiseless data it stops early on weight 0, which is not offered here. It has no settings
for natural images.
"""

from typing import Literal

import torch
from pydantic import Field

from p2l_engine.priors.base import PixelPrior
from p2l_engine.schedule import Step, ddim_deviation, stochastic_step
from p2l_engine.solvers.base import ImageState, Problem
from p2l_engine.solvers.parts.pixels import PixelSampler


class DDS(PixelSampler):
    """noise: of what eta is a share: DDPM's deviation at a step (ddim), or all that stays (share)."""

    name: Literal["dds"] = "dds"
    steps: int = Field(default=100, ge=1)
    weight: float = Field(default=1.0, gt=0)
    eta: float = Field(default=1.0, ge=0, le=1)
    noise: Literal["ddim", "share"] = "ddim"

    @torch.no_grad()
    def step(self, prior: PixelPrior, problem: Problem, state: ImageState, at: Step) -> ImageState:
        eps, x0 = self.predict(prior, state.x, at)
        u = problem.A.proximal(problem.y, x0, self.weight)  # Eq. 53
        fresh = problem.noise(u)
        return ImageState(stochastic_step(u, eps, fresh, at, self._deviation(at)))  # Eq. 54

    def _deviation(self, at: Step) -> float:
        if self.noise == "share":
            return self.eta * (1 - at.alpha_bar_prev) ** 0.5
        return ddim_deviation(at, self.eta)
