"""Steps that begin at an answer without a network, as Come-Closer-Diffuse-Faster does (Chung et al., 2022).

| symbol | code | meaning |
|---|---|---|
| x_TV | x | total variation's image, with the weight that the noise gives it |
| z_t | | sqrt(alpha_bar_t) E(x_TV) + sqrt(1 - alpha_bar_t) eps, at the first timestep that is visited |
"""

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.priors.base import LatentPrior, Prior
from p2l_engine.schedule import Step, ddim_step, make_schedule
from p2l_engine.settings import Settings
from p2l_engine.solvers.base import Problem
from p2l_engine.solvers.parts.total_variation import total_variation


class WarmStart(Settings):
    """at: the share of the prior's timesteps, the less noisy ones, that the steps are spaced over.

    Not of the paper, whose latent begins as noise alone.
    """

    at: float = Field(default=0.4, gt=0, le=1)

    def steps(self, prior: Prior, count: int) -> tuple[Step, ...]:
        """So many steps below `at`. Raises ValueError where there are not as many."""
        return make_schedule(prior.process, count, self.at).steps


@torch.no_grad()
def warm_latents(prior: LatentPrior, problem: Problem, alpha_bar: float) -> Tensor:
    """z_t (B, C, h, w), whose noise is what z_T would be without it."""
    x = total_variation(problem.A, problem.y, problem.noise_level).clamp(-1, 1)
    return ddim_step(prior.encode(x), problem.first_latents(prior), alpha_bar)
