"""Measurement gradients and the step along them (Sec. 3.2, App. D.2, D.3).

| symbol | here |
|---|---|
| rho_t | step size |
| m, v | `Moments`: history of the gradient and of its square, carried from step to step without correction |
| beta_1, beta_2, epsilon | BETA_1, BETA_2, EPSILON of App. D.2 |
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.operators.base import LinearOperator
from p2l_engine.priors.base import LatentPrior
from p2l_engine.schedule import Step
from p2l_engine.settings import Grown, Settings
from p2l_engine.solvers.base import Problem
from p2l_engine.solvers.parts.state_subspace import StateSubspace, onto_state_subspace

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class FixedPoint(Settings):
    """The term of Eq. 44 (onto: none) or Eq. 45 (onto: gluing). weight: gamma of those equations."""

    weight: float = Field(default=0.1, gt=0)
    onto: Literal["none", "gluing"] = "none"


class Guidance(Grown):
    """The measurement gradient. step_size: rho, times alpha_bar_t where the schedule says so.

    rule: rho times the gradient (gd, Alg. 1), or divided by its history (adam, Alg. 3).
    residual: of y - A D(z0), what is differentiated: the norm, or its square, which Alg. 1 and Eq. 13 print.
    fixed_point: the term that is added to it (GML-DPS, PSLD).
    for_steps: the number of steps rho was chosen for; with fewer it grows in proportion. null: for any.
    variable: z_t, or z_0 (Eq. 35), for which nothing passes back through the network.
    state_subspace: what it is projected onto before it is used (DiffStateGrad).
    """

    later: ClassVar[frozenset[str]] = frozenset({"for_steps", "variable", "state_subspace"})
    rule: Literal["gd", "adam"] = "gd"
    step_size: float = Field(default=1.0, ge=0)
    step_schedule: Literal["constant", "alpha_bar"] = "constant"
    for_steps: int | None = Field(default=None, ge=1)
    variable: Literal["z_t", "z_0"] = "z_t"
    residual: Literal["norm", "squared"] = "norm"
    fixed_point: FixedPoint | None = None
    state_subspace: StateSubspace | None = None

    def doubts(self, steps: int) -> list[str]:
        """What of the settings does nothing in so many steps."""
        if self.state_subspace is None or self.state_subspace.every <= steps:
            return []
        every = self.state_subspace.every
        return [f"state_subspace.every is {every}, above the {steps} steps: every gradient is used whole"]


@dataclass(frozen=True)
class Moments:
    """Adam's history of each image: m and v, of the shape of z."""

    m: Tensor
    v: Tensor

    @staticmethod
    def zeros(z: Tensor) -> "Moments":
        return Moments(torch.zeros_like(z), torch.zeros_like(z))


def fidelity(A: LinearOperator, y: Tensor, x: Tensor, residual: str) -> Tensor:
    """|y - A x| (residual: norm) or its square (squared), of each image: (B,)."""
    norm = torch.linalg.vector_norm((y - A(x)).flatten(1), dim=1)
    return norm if residual == "norm" else norm.square()


def traced(z: Tensor, guidance: Guidance | None) -> Tensor:
    """z_t apart from the steps before it, to be differentiated in where `guidance` asks for that."""
    return z.detach().requires_grad_(guidance is not None and guidance.variable == "z_t")


def gradient_at(
    prior: LatentPrior, problem: Problem, z: Tensor, z0: Tensor, x0: Tensor, at: Step, guidance: Guidance
) -> Tensor:
    """The gradient, in z_t or z_0|t, of what `guidance` asks of z0 and x0 = D(z0): of the shape of z."""
    variable = z if guidance.variable == "z_t" else z0
    (gradient,) = torch.autograd.grad(_loss(prior, problem, z0, x0, guidance).sum(), variable)
    return onto_state_subspace(gradient, z.detach(), at, guidance.state_subspace)


def _loss(prior: LatentPrior, problem: Problem, z0: Tensor, x0: Tensor, guidance: Guidance) -> Tensor:
    """What is differentiated, for each image (B,): fidelity, and the fixed-point term of Eq. 44 or 45."""
    value = fidelity(problem.A, problem.y, x0, guidance.residual)
    if (term := guidance.fixed_point) is not None:
        glued = problem.A.glue(problem.y, x0) if term.onto == "gluing" else x0
        distance = torch.linalg.vector_norm((z0 - prior.encode(glued)).flatten(1), dim=1)
        value = value + term.weight * distance
    return value


def update(
    gradient: Tensor, moments: Moments, guidance: Guidance, alpha_bar: float, steps: int
) -> tuple[Tensor, Moments]:
    """What is taken from z'_{t-1} (Alg. 1 line 12, Alg. 3 lines 12-14), and the history after it.

    steps: of the whole restoration.
    """
    rho = guidance.step_size * (alpha_bar if guidance.step_schedule == "alpha_bar" else 1.0)
    if guidance.for_steps is not None:
        rho *= guidance.for_steps / steps
    if guidance.rule == "gd":
        return rho * gradient, moments
    m = BETA_1 * moments.m + (1 - BETA_1) * gradient
    v = BETA_2 * moments.v + (1 - BETA_2) * gradient.square()
    m_hat, v_hat = m / (1 - BETA_1), v / (1 - BETA_2)
    return rho * m_hat / (v_hat + EPSILON).sqrt(), Moments(m, v)
