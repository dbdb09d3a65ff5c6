"""PiGDM, pseudo-inverse guided diffusion (Song et al., 2023): Eq. 52 with its sign mended.

| symbol | code | meaning |
|---|---|---|
| r_t^2 | r2 | variance of x_0 given x_t, 1 - alpha_bar_t as its authors advise |
| v | v | r_t^2 A^T (r_t^2 A A^T + sigma^2 I)^-1 (y - A x_0|t) |
| g | g | (v^T dx_0|t/dx_t)^T: r_t^2 times the gradient of log p(y | x_t) |

v needs no inverse of A A^T: A^T (A A^T + c I)^-1 (y - A x) is what the proximal map of weight c adds to x.
Eq. 52 subtracts its bracket, which points up the likelihood, and leaves out the factors r_t^2 and
(alpha_bar_{t-1} alpha_bar_t)^1/2 of the authors; without them the last steps, where r_t^2 is 1e-4, diverge.
The code of the authors' group (in RED-diff's comparison) is for noiseless data, starts from A^+ y
below its noise, and has eta 0 where the paper has 1.
"""

from typing import Literal

import torch
from pydantic import Field

from p2l_engine.priors.base import PixelPrior
from p2l_engine.schedule import Step, ddim_deviation, stochastic_step
from p2l_engine.solvers.base import ImageState, Problem
from p2l_engine.solvers.parts.pixels import PixelSampler


class PiGDM(PixelSampler):
    """Each step goes through the network once and back."""

    name: Literal["pigdm"] = "pigdm"
    steps: int = Field(default=100, ge=1)
    eta: float = Field(default=1.0, ge=0, le=1)

    def step(self, prior: PixelPrior, problem: Problem, state: ImageState, at: Step) -> ImageState:
        x = state.x.detach().requires_grad_()
        eps, x0 = self.predict(prior, x, at)
        r2, fixed = 1 - at.alpha_bar, x0.detach()
        v = problem.A.proximal(problem.y, fixed, problem.noise_level**2 / r2) - fixed
        (g,) = torch.autograd.grad((v * x0).sum(), x)
        x_next = stochastic_step(fixed, eps.detach(), problem.noise(x), at, ddim_deviation(at, self.eta))
        return ImageState(x_next + (at.alpha_bar_prev * at.alpha_bar) ** 0.5 * g)
