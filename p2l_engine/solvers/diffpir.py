"""DiffPIR (Zhu et al., 2023): Eq. 55, 56.

| symbol | code | meaning |
|---|---|---|
| lambda | weight | of the prior's image in Eq. 55, times sigma^2 alpha_bar / (1 - alpha_bar) |
| rho_t | rho | that product |
| zeta | zeta | share of the noise's variance that is drawn anew |
| eps^_t | eps | noise in x_t beside u, no longer the network's |

Eq. 56 has its noise under a hat: it is taken from x_t and u, as the authors' code does, where DDS keeps the
network's. sigma is in units of [-1, 1] here; the paper does not say, and its 0.01 is read so. The authors'
is for pixels in [0, 1], where the same lambda means a quarter of it, and they limit x_0|t to [-1, 1]: the
preset `authors`.
Their code has more that is not offered here: timesteps that lie denser towards the end; a start from y in the
shape of an image, of which 0.6 % is left beneath the first noise; no data step at the last timestep, whose
noise stays in the result; y pasted into inpainted images. P2L's lambda of 35 and zeta of
0.35 for enlargement are their code's for a gradient step, where Eq. 55 is solved.
"""

from typing import Literal

import torch
from pydantic import Field

from p2l_engine.priors.base import PixelPrior
from p2l_engine.schedule import Step, noise_beside, stochastic_step
from p2l_engine.solvers.base import ImageState, Problem
from p2l_engine.solvers.parts.pixels import ClampingSampler


class DiffPIR(ClampingSampler):
    """weight: lambda."""

    name: Literal["diffpir"] = "diffpir"
    steps: int = Field(default=100, ge=1)
    weight: float = Field(default=7.0, gt=0)
    zeta: float = Field(default=0.3, ge=0, le=1)

    @torch.no_grad()
    def step(self, prior: PixelPrior, problem: Problem, state: ImageState, at: Step) -> ImageState:
        _, x0 = self.predict(prior, state.x, at)
        rho = self.weight * problem.noise_level**2 * at.alpha_bar / (1 - at.alpha_bar)
        u = problem.A.proximal(problem.y, x0, rho)  # Eq. 55
        eps = noise_beside(state.x, u, at.alpha_bar)
        deviation = (self.zeta * (1 - at.alpha_bar_prev)) ** 0.5
        return ImageState(stochastic_step(u, eps, problem.noise(u), at, deviation))  # Eq. 56
