"""The one latent loop: P2L by gradient descent (Algorithm 1) and with Adam's history (Algorithm 3), and LDPS,
GML-DPS, PSLD and LDIR, which are the same loop with parts taken out.

| symbol | code | meaning |
|---|---|---|
| y, A | y, A | measurement and operator, y = A x + n (Eq. 3) |
| z_t, z_{t-1} | z | latent before and after a step |
| C_t | C | text embedding |
| eps_t | eps | predicted noise |
| z_0|t | z0 | posterior mean of the clean latent (Eq. 14) |
| x_0 = D(z_0|t) | x0 | its image, decoded once a step, shared by gradient and projection |
| z~_0|t | z0_projected | the same on the range of the encoder (Eq. 20) |
| alpha_bar_t | alpha_bar | share of signal variance at timestep t |
| m, v | moments | Adam's history |
| gamma, rho_t, K | projection.every, guidance.step_size, prompt_tuning.iterations | |
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from p2l_engine.methods import Method
from p2l_engine.operators import LinearOperator
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.schedule import Schedule, ddim_step, posterior_mean
from p2l_engine.solvers import guidance as guide
from p2l_engine.solvers.projection import project
from p2l_engine.solvers.prompt_tuning import optimize_embedding

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class State:
    """The images that are still being restored: everything in it is theirs, in this order.

    indices: their places in the batch. y: (B, *measurement), z: (B, C, h, w), C: (B, L, D).
    """

    indices: list[int]
    A: LinearOperator
    y: Tensor
    z: Tensor
    C: Tensor
    moments: guide.Moments

    def select(self, keep: list[int]) -> "State":
        return State(
            [self.indices[i] for i in keep],
            self.A.select(keep),
            self.y[keep],
            self.z[keep],
            self.C[keep],
            self.moments.select(keep),
        )


def sample(
    model: LatentDiffusion, state: State, method: Method, schedule: Schedule, progress: Progress | None
) -> tuple[State, dict[int, str]]:
    """Run all steps. Returns the state of the images that came through and, by place, why others did not."""
    errors: dict[int, str] = {}
    steps = len(schedule.timesteps)
    for row, step in enumerate(range(steps, 0, -1)):  # line 1: T to 1
        if not state.indices:
            break
        state = one_step(model, state, method, schedule, row, step)
        finite = torch.isfinite(state.z).flatten(1).all(dim=1).tolist()
        if not all(finite):
            why = f"not-a-number or infinity at step {step} of {steps}"
            errors |= {place: why for place, ok in zip(state.indices, finite, strict=True) if not ok}
            state = state.select([i for i, ok in enumerate(finite) if ok])
        if progress is not None:
            progress(row + 1, steps)
    return state, errors


def one_step(
    model: LatentDiffusion, state: State, method: Method, schedule: Schedule, row: int, step: int
) -> State:
    """One pass through Algorithm 1 (the line numbers), or 3 where the guidance keeps Adam's history."""
    t = int(schedule.timesteps[row])
    alpha_bar, alpha_bar_prev = float(schedule.alpha_bar[row]), float(schedule.alpha_bar_prev[row])
    A, y, moments = state.A, state.y, state.moments
    z = state.z.detach().requires_grad_(method.guidance is not None)

    C = optimize_embedding(model, A, y, state.z, state.C, t, alpha_bar, method.prompt_tuning)  # line 2
    eps = model.predict_noise(z, t, C)  # line 3
    z0 = posterior_mean(z, eps, alpha_bar)  # line 4, Eq. 14
    x0 = model.decode(z0)
    z0_projected = z0
    if method.projection is not None and step % method.projection.every == 0:  # line 5
        z0_projected = project(model, A, y, x0.detach(), method.projection)  # lines 6-7, Eq. 19, 20
    z_next = ddim_step(z0_projected, eps, alpha_bar_prev).detach()  # line 11, Eq. 15
    if method.guidance is not None:
        distance = guide.loss(model, A, y, z0, x0, method.guidance)
        (gradient,) = torch.autograd.grad(distance.sum(), z)
        change, moments = guide.update(gradient, moments, method.guidance, alpha_bar)
        z_next = z_next - change  # line 12; Alg. 3 lines 11-14
    return replace(state, z=z_next, C=C, moments=moments)  # line 13
