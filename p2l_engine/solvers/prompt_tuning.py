"""Algorithm 2: the text embedding tuned to the measurement at one timestep."""

import torch
from torch import Tensor

from p2l_engine.methods import PromptTuning
from p2l_engine.operators import LinearOperator
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.schedule import posterior_mean
from p2l_engine.solvers.guidance import fidelity

RHO = 1.0  # step along the gradient of the norm, App. D.1


def optimize_embedding(
    model: LatentDiffusion,
    A: LinearOperator,
    y: Tensor,
    z: Tensor,
    C: Tensor,
    t: int,
    alpha_bar: float,
    setting: PromptTuning | None,
) -> Tensor:
    """C_t* (B, L, D) from C_t^(0): K steps of an Adam that starts afresh at this timestep.

    Adam acts on each element by itself, so every image of the batch is tuned as if alone.
    """
    if setting is None:
        return C
    C = C.detach().clone().requires_grad_()
    adam = torch.optim.Adam([C], lr=setting.learning_rate)
    for _ in range(setting.iterations):  # line 2
        eps = model.predict_noise(z, t, C)  # line 3
        z0 = posterior_mean(z, eps, alpha_bar)  # line 4
        fixed = z0.detach().requires_grad_()
        distance = fidelity(A, y, model.decode(fixed), "norm")
        (gradient,) = torch.autograd.grad(distance.sum(), fixed)
        z0 = z0 - RHO * gradient  # line 5, the gradient a constant from here on
        loss = fidelity(A, y, model.decode(z0), "squared")  # line 6
        (C.grad,) = torch.autograd.grad(loss.sum(), C)
        adam.step()  # line 7
    return C.detach()
