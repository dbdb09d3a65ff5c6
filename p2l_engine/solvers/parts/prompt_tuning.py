"""Algorithm 2: the text embedding tuned to the measurement at one timestep."""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from p2l_engine.mistakes import refuse
from p2l_engine.priors.base import LatentPrior
from p2l_engine.schedule import Step, posterior_mean
from p2l_engine.settings import Grown
from p2l_engine.solvers.base import Problem
from p2l_engine.solvers.parts.guidance import fidelity

Share = Annotated[float, Field(ge=0, le=1)]

RHO = 1.0  # step along the gradient of the norm, App. D.1


class PromptTuning(Grown):
    """Algorithm 2. iterations: K, at each timestep; learning_rate: of Adam, on the text embedding.

    between: at which steps, as shares of all that are left: 1 at the first, nearly 0 at the last.
    through: of each iteration's loss, the decoder (Algorithm 2) or the network alone: then the gradient of
    |y - A D(z_0|t)|^2 in z_0|t is taken once, at the first iteration.
    """

    later: ClassVar[frozenset[str]] = frozenset({"between", "through"})
    iterations: int = Field(default=3, ge=1, le=100)
    learning_rate: float = Field(default=1e-4, gt=0)
    between: tuple[Share, Share] = (0.0, 1.0)
    through: Literal["decoder", "network"] = "decoder"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.between
        refuse([f"between: got {[low, high]}; allowed: the lower share first"] if low > high else [])
        return self

    def doubts(self, steps: int) -> list[str]:
        """What of the settings does nothing in so many steps."""
        if any(tuning_at(self, Step(number), steps) for number in range(1, steps + 1)):
            return []
        return [f"between is {list(self.between)}, where none of the {steps} steps is: no prompt is tuned"]

    def brief(self) -> Self:
        """Itself with one iteration."""
        return self.model_copy(update={"iterations": 1})


def tuning_at(setting: PromptTuning | None, at: Step, steps: int) -> PromptTuning | None:
    """The setting at a step of so many where it is done, else None."""
    if setting is None:
        return None
    low, high = setting.between
    return setting if low <= at.number / steps <= high else None


def optimize_embedding(
    prior: LatentPrior, problem: Problem, z: Tensor, C: Tensor, at: Step, setting: PromptTuning | None
) -> Tensor:
    """C_t* (B, L, D) from C_t^(0): K steps of an Adam that starts afresh at this timestep; none, C_t^(0).

    Adam acts on each element by itself, so every image of the batch is tuned as if alone.
    """
    if setting is None:
        return C
    C = C.detach().clone().requires_grad_()
    adam = torch.optim.Adam([C], lr=setting.learning_rate)
    slope: Tensor | None = None
    for _ in range(setting.iterations):  # line 2
        eps = prior.predict_noise(z, at.t, C)  # line 3
        z0 = posterior_mean(z, eps, at.alpha_bar)  # line 4
        if setting.through == "decoder":
            (C.grad,) = torch.autograd.grad(_loss(prior, problem, z0).sum(), C)  # lines 5-6
        else:
            slope = _slope(prior, problem, z0, "squared") if slope is None else slope
            (C.grad,) = torch.autograd.grad(z0, C, slope)
        adam.step()  # line 7
    return C.detach()


def _loss(prior: LatentPrior, problem: Problem, z0: Tensor) -> Tensor:
    """|y - A D(z_0)|^2 (B,) of z0 after one gradient step, whose gradient is a constant."""
    z0 = z0 - RHO * _slope(prior, problem, z0, "norm")  # line 5
    return fidelity(problem.A, problem.y, prior.sketch(z0), "squared")  # line 6


def _slope(prior: LatentPrior, problem: Problem, z0: Tensor, residual: str) -> Tensor:
    """The gradient in z_0 of |y - A D(z_0)|, or its square: of the shape of z0, without a graph."""
    fixed = z0.detach().requires_grad_()
    distance = fidelity(problem.A, problem.y, prior.sketch(fixed), residual)
    (gradient,) = torch.autograd.grad(distance.sum(), fixed)
    return gradient
