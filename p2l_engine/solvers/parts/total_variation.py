"""Total variation: argmin_x |y - A x|^2 / 2 + w TV(x), the strongest answer that has no network.

By the primal-dual method of Chambolle and Pock (2011, Algorithm 1), whose primal step is A's proximal map.

| symbol | code | meaning |
|---|---|---|
| x, x_bar | x, x_bar | image, and extrapolated |
| p | p | dual variable: a field beside the differences of x, no longer than w |
| tau, sigma | tau, 1 / (8 tau) | step sizes, tau sigma |D|^2 <= 1; tau = REACH / w, for p grows with w |
| D | differences | to the pixel below and to the right, 0 at the edge; |D|^2 <= 8 |
| TV(x) | | the sum of the lengths of D x, each over both directions and the three channels |
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from p2l_engine.operators.base import LinearOperator

STEPS = 100
REACH = 0.1  # how far a step may take a pixel, in units of [-1, 1]
# w = WEIGHT sigma_y sqrt(entries of y / entries of x), found on tuning images: `jobs.benchmark tune tv`.
WEIGHT = 0.8


@dataclass(frozen=True)
class TVState:
    """x, x_bar: (B, 3, H, W). p: (B, 2, 3, H, W). w: (B,)."""

    x: Tensor
    x_bar: Tensor
    p: Tensor
    w: Tensor


def total_variation(A: LinearOperator, y: Tensor, noise_level: float) -> Tensor:
    """x (B, 3, H, W) of y (B, *measurement) after the usual number of steps, with the weight of its noise."""
    state = begin(A, y, weights(A, y, noise_level))
    for _ in range(STEPS):
        state = step(A, y, state)
    return state.x


def weights(A: LinearOperator, y: Tensor, noise_level: float) -> Tensor:
    """w (B,) for noise of a standard deviation."""
    of_x = A.unknowns(tuple(y.shape[1:]))
    share = A.entries(y).to(y) / of_x
    return WEIGHT * noise_level * share.clamp_min(1 / of_x).sqrt()


def begin(A: LinearOperator, y: Tensor, w: Tensor) -> TVState:
    """The state before the first step."""
    x = A.backproject(y)
    return TVState(x, x, torch.zeros_like(differences(x)), w)


def step(A: LinearOperator, y: Tensor, state: TVState) -> TVState:
    """The state after a step."""
    w = state.w.view(-1, 1, 1, 1)
    tau = REACH / w
    p = _shortened(state.p + differences(state.x_bar) / (8 * tau[:, None]), w[:, None])
    x = A.proximal(y, state.x - tau * adjoint_differences(p), state.w / REACH)
    return TVState(x, 2 * x - state.x, p, state.w)


def differences(x: Tensor) -> Tensor:
    """D x (B, 2, 3, H, W) of x (B, 3, H, W): to the pixel below, and to the right."""
    below, right = torch.zeros_like(x), torch.zeros_like(x)
    below[..., :-1, :] = x.diff(dim=-2)
    right[..., :-1] = x.diff(dim=-1)
    return torch.stack([below, right], dim=1)


def adjoint_differences(p: Tensor) -> Tensor:
    """D^T p (B, 3, H, W) of p (B, 2, 3, H, W)."""
    below, right = p.unbind(dim=1)
    x = torch.zeros_like(below)
    x[..., :-1, :] -= below[..., :-1, :]
    x[..., 1:, :] += below[..., :-1, :]
    x[..., :-1] -= right[..., :-1]
    x[..., 1:] += right[..., :-1]
    return x


def _shortened(p: Tensor, longest: Tensor) -> Tensor:
    """p, at each pixel no longer than `longest`."""
    length = p.square().sum(dim=(1, 2), keepdim=True).sqrt()
    return p / (length / longest).clamp_min(1)
