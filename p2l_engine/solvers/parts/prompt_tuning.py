"""Algorithm 2: the text embedding tuned to the measurement at one timestep."""

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.priors.base import LatentPrior
from p2l_engine.schedule import Step, posterior_mean
from p2l_engine.settings import Settings
from p2l_engine.solvers.base import Problem
from p2l_engine.solvers.parts.guidance import fidelity

RHO = 1.0  # step along the gradient of the norm, App. D.1


class PromptTuning(Settings):
    """Algorithm 2. iterations: K, at each timestep; learning_rate: of Adam, on the text embedding.

    A network in bfloat16 does not see a change of an embedding's number by less than 1/256 of it.
    """

    iterations: int = Field(default=3, ge=1, le=100)
    learning_rate: float = Field(default=1e-4, gt=0)


def optimize_embedding(
    prior: LatentPrior, problem: Problem, z: Tensor, C: Tensor, at: Step, setting: PromptTuning | None
) -> Tensor:
    """C_t* (B, L, D) from C_t^(0): K steps of an Adam that starts afresh at this timestep.

    Adam acts on each element by itself, so every image of the batch is tuned as if alone.
    """
    if setting is None:
        return C
    A, y = problem.A, problem.y
    C = C.detach().clone().requires_grad_()
    adam = torch.optim.Adam([C], lr=setting.learning_rate)
    for _ in range(setting.iterations):  # line 2
        eps = prior.predict_noise(z, at.t, C)  # line 3
        z0 = posterior_mean(z, eps, at.alpha_bar)  # line 4
        fixed = z0.detach().requires_grad_()
        distance = fidelity(A, y, prior.decode(fixed), "norm")
        (gradient,) = torch.autograd.grad(distance.sum(), fixed)
        z0 = z0 - RHO * gradient  # line 5, the gradient a constant from here on
        loss = fidelity(A, y, prior.decode(z0), "squared")  # line 6
        (C.grad,) = torch.autograd.grad(loss.sum(), C)
        adam.step()  # line 7
    return C.detach()
