"""Total variation, the strongest solver that has no network: argmin_x |y - A x|^2 / 2 + w TV(x).

By the primal-dual method of Chambolle and Pock (2011, Algorithm 1), whose primal step is A's proximal map.

| symbol | code | meaning |
|---|---|---|
| x, x_bar | x, x_bar | image, and extrapolated |
| p | p | dual variable: a field beside the differences of x, no longer than w |
| tau, sigma | tau, 1 / (8 tau) | step sizes, tau sigma |D|^2 <= 1; tau = REACH / w, for p grows with w |
| D | differences | to the pixel below and to the right, 0 at the edge; |D|^2 <= 8 |
| TV(x) | | the sum of the lengths of D x, each over both directions and the three channels |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.schedule import Step
from p2l_engine.solvers.base import Problem, Solver

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


class TV(Solver):
    """weight: w; null takes it from the noise of the measurement. steps: iterations."""

    name: Literal["tv"] = "tv"
    steps: int = Field(default=100, ge=1)
    weight: float | None = Field(default=None, gt=0)

    def schedule(self, prior: None) -> Sequence[Step]:
        return tuple(Step(number) for number in range(self.steps, 0, -1))

    def start(self, prior: None, problem: Problem) -> TVState:
        x = problem.A.backproject(problem.y)
        return TVState(x, x, torch.zeros_like(differences(x)), self._weights(problem, x))

    def step(self, prior: None, problem: Problem, state: TVState, at: Step) -> TVState:
        w = state.w.view(-1, 1, 1, 1)
        tau = REACH / w
        p = _shortened(state.p + differences(state.x_bar) / (8 * tau[:, None]), w[:, None])
        x = problem.A.proximal(problem.y, state.x - tau * adjoint_differences(p), state.w / REACH)
        return TVState(x, 2 * x - state.x, p, state.w)

    def images(self, prior: None, problem: Problem, state: TVState) -> Tensor:
        return state.x

    def _weights(self, problem: Problem, x: Tensor) -> Tensor:
        if self.weight is not None:
            return x.new_full((len(x),), self.weight)
        share = problem.A.entries(problem.y).to(x) / x[0].numel()
        return WEIGHT * problem.noise_level * share.clamp_min(1 / x[0].numel()).sqrt()


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
