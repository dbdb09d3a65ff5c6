"""DPS, diffusion posterior sampling (Chung et al., 2023): Eq. 51.

| symbol | code | meaning |
|---|---|---|
| zeta | step_size | along the gradient of the norm, 1 in Eq. 51 |
| eta | eta | 0 for super-resolution in the paper, 1 elsewhere |

The norm is of each image by itself; in the authors' code it is of the whole batch, so that results fall with
its size. Theirs has zeta 0.3, for inpainting 0.5, always the noise of eta 1 (in its variance learned by the
network, which is not used here), and limits x_0|t to [-1, 1], with the gradient through that. Their sigma is
in units of [-1, 1], as here.
"""

from typing import Literal

import torch
from pydantic import Field

from p2l_engine.priors.base import PixelPrior
from p2l_engine.schedule import Step, ddim_deviation, stochastic_step
from p2l_engine.solvers.base import ImageState, Problem
from p2l_engine.solvers.parts.guidance import fidelity
from p2l_engine.solvers.parts.pixels import ClampingSampler


class DPS(ClampingSampler):
    """Each step goes through the network once and back."""

    name: Literal["dps"] = "dps"
    step_size: float = Field(default=1.0, ge=0)
    eta: float = Field(default=1.0, ge=0, le=1)

    def step(self, prior: PixelPrior, problem: Problem, state: ImageState, at: Step) -> ImageState:
        x = state.x.detach().requires_grad_()
        eps, x0 = self.predict(prior, x, at)
        distance = fidelity(problem.A, problem.y, x0, "norm")
        (gradient,) = torch.autograd.grad(distance.sum(), x)
        deviation = ddim_deviation(at, self.eta)
        x_next = stochastic_step(x0.detach(), eps.detach(), problem.noise(x), at, deviation)
        return ImageState(x_next - self.step_size * gradient)  # Eq. 51
