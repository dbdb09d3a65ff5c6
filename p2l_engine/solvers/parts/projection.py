"""Projection onto the range of the encoder (Sec. 3.3)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.operators.discrepancy import Weight
from p2l_engine.priors.base import LatentPrior
from p2l_engine.schedule import Step
from p2l_engine.settings import Grown
from p2l_engine.solvers.base import Problem


class Projection(Grown):
    """Sec. 3.3. every: gamma, in steps; weight: lambda of Eq. 19.

    Not of the paper: weight `discrepancy`, what leaves of y - A x as much as the noise is, and fresh_noise,
    how much of the variance of the noise beside the projected latent is drawn anew, since the predicted one
    still tells of the image before the projection. The last step draws none.
    onto: the Gamma of Table 4 that comes before the encoder, or none; whichever it is, what is projected on
    is the encoder's range. `projection: null` takes the whole part out.
    """

    later: ClassVar[frozenset[str]] = frozenset({"fresh_noise"})
    every: int = Field(default=4, ge=1)
    weight: Weight = Field(default=1.0, description="a number above 0, or discrepancy")
    onto: Literal["proximal", "gluing", "none"] = "proximal"
    fresh_noise: float = Field(default=0.0, ge=0, le=1)

    def doubts(self, steps: int) -> list[str]:
        """What of the settings does nothing in so many steps."""
        found = []
        if self.every > steps:
            found.append(f"every is {self.every}, above the {steps} steps: the projection is never made")
        if self.onto != "proximal" and self.weight != type(self).model_fields["weight"].default:
            unread = f"weight is {self.weight}, of the job or its preset"
            found.append(f"{unread}, but onto is {self.onto}, which has none")
        return found


@torch.no_grad()
def project(prior: LatentPrior, problem: Problem, x0: Tensor, setting: Projection) -> Tensor:
    """E(Gamma(x0)), Eq. 20, of x0 = D(z0) (B, 3, H, W).

    Gamma is the proximal map of Eq. 19, the gluing of Table 4, or the identity.
    """
    match setting.onto:
        case "proximal":
            x0 = problem.proximal(x0, setting.weight)
        case "gluing":
            x0 = problem.A.glue(problem.y, x0)
    return prior.encode(x0)


def renewed(problem: Problem, eps: Tensor, at: Step, setting: Projection) -> Tensor:
    """The noise beside a projected latent: eps (B, C, h, w), a share of its variance drawn anew."""
    share = 0.0 if at.number == 1 else setting.fresh_noise
    return (1 - share) ** 0.5 * eps + share**0.5 * problem.noise(eps) if share else eps
