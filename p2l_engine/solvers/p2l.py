"""The one latent loop: P2L by gradient descent (Algorithm 1) and with Adam's history (Algorithm 3).

LDPS, GML-DPS, PSLD and LDIR are the same loop with parts taken out.

| symbol | code | meaning |
|---|---|---|
| y, A | problem | measurement and operator, y = A x + n (Eq. 3) |
| z_t, z_{t-1} | z | latent before and after a step |
| C_t | C | text embedding |
| eps_t | eps | predicted noise |
| z_0|t | z0 | posterior mean of the clean latent (Eq. 14) |
| x_0 = D(z_0|t) | x0 | its image, decoded once a step for gradient and projection, where one reads it |
| z~_0|t | z0_projected | the same on the range of the encoder (Eq. 20) |
| alpha_bar_t | at.alpha_bar | share of signal variance at timestep t |
| m, v | moments | Adam's history |
| gamma, rho_t, K | projection.every, guidance.step_size, prompt_tuning.iterations | |

| method | prompt tuning | projection | guidance |
|---|---|---|---|
| ldps | - | - | gradient of the norm of y - A D(z0), gradient descent (Eq. 6) |
| gml_dps | - | - | + fixed-point term (Eq. 44) |
| psld | - | - | + fixed-point term after gluing (Eq. 45) |
| ldir | - | - | Adam history (Eq. 40-43) |
| p2l | Algorithm 2 | Sec. 3.3 | gradient descent (Alg. 1) or Adam history (Alg. 3) |

Algorithm 1 (line 12) and Eq. 13 print the gradient of the squared norm of y - A D(z0). Taken here is that of
the norm, shorter by 2 |y - A D(z0)|, as Algorithm 3 (line 11) and Eq. 6, 40, 44 and 45 print it, and as App.
D.1 says of prompt tuning: the step sizes of Table 6 are read for it. `guidance.residual: squared` is line 12
as it is printed.

PSLD is Eq. 45. Its own code adds noise anew to A D(z0) at every step, takes for A^T what is no adjoint (for
blurs and masks the identity), encodes to a sample, and has norms of the whole batch.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from p2l_engine.priors.base import LatentPrior, Prior
from p2l_engine.schedule import Step, ddim_step, posterior_mean, timesteps_until
from p2l_engine.solvers.base import LatentSampler, LatentState, Problem, doubted
from p2l_engine.solvers.parts.guidance import Guidance, Moments, gradient_at, traced, update
from p2l_engine.solvers.parts.projection import Projection, project, renewed
from p2l_engine.solvers.parts.prompt_tuning import PromptTuning, optimize_embedding, tuning_at
from p2l_engine.solvers.parts.warm_start import WarmStart, warm_latents

PARTS: dict[str, dict[str, Any]] = {
    "p2l": {"prompt_tuning": {}, "projection": {}, "guidance": {}},
    "ldps": {"guidance": {}},
    "gml_dps": {"guidance": {"fixed_point": {"onto": "none"}}},
    "psld": {"guidance": {"fixed_point": {"onto": "gluing"}}},
    "ldir": {"guidance": {"rule": "adam", "step_size": 0.05}},
}


@dataclass(frozen=True)
class P2LState(LatentState):
    """moments: Adam's history, of the shape of z."""

    moments: Moments


class P2L(LatentSampler):
    """P2L, or with parts taken out (None) the baselines it is compared with.

    warm_start: begins nearer to the answer; None, as in the paper, begins at noise alone.
    """

    later: ClassVar[frozenset[str]] = LatentSampler.later | {"warm_start"}
    name: Literal["p2l", "ldps", "gml_dps", "psld", "ldir"] = "p2l"
    prompt_tuning: PromptTuning | None = None
    projection: Projection | None = None
    guidance: Guidance | None = None
    warm_start: WarmStart | None = None

    @classmethod
    def defaults(cls, name: str) -> dict[str, Any]:
        return PARTS[name]

    def schedule(self, prior: Prior) -> Sequence[Step]:
        return (
            super().schedule(prior) if self.warm_start is None else self.warm_start.steps(prior, self.steps)
        )

    def within(self, timesteps: int) -> int:
        return timesteps if self.warm_start is None else timesteps_until(self.warm_start.at, timesteps)

    def start(self, prior: LatentPrior, problem: Problem) -> P2LState:
        if self.warm_start is None:
            z = problem.first_latents(prior)
        else:
            z = warm_latents(prior, problem, self.schedule(prior)[0].alpha_bar)
        assert problem.C is not None
        return P2LState(z, problem.C, Moments.zeros(z))

    def step(self, prior: LatentPrior, problem: Problem, state: P2LState, at: Step) -> P2LState:
        """One pass through Algorithm 1 (the line numbers), or 3 where the guidance keeps Adam's history."""
        z = traced(state.z, self.guidance)
        projection, moments = self._projection_at(at), state.moments

        tuning = tuning_at(self.prompt_tuning, at, self.steps)
        C = optimize_embedding(prior, problem, state.z, state.C, at, tuning)  # line 2
        eps = prior.predict_noise(z, at.t, C)  # line 3
        z0 = posterior_mean(z, eps, at.alpha_bar)  # line 4, Eq. 14
        x0, change = None, torch.zeros_like(z0)
        if self.guidance is not None:  # for line 12: its graph goes before more is computed
            x0 = prior.sketch(z0.requires_grad_())
            gradient = gradient_at(prior, problem, z, z0, x0, at, self.guidance)
            change, moments = update(gradient, moments, self.guidance, at.alpha_bar, self.steps)
        z0_projected = z0
        if projection is not None:  # line 5
            decoded = prior.decode(z0.detach()) if x0 is None or prior.sketches else x0.detach()
            z0_projected = project(prior, problem, decoded, projection)  # lines 6-7, Eq. 19, 20
            eps = renewed(problem, eps, at, projection)
        z_next = ddim_step(z0_projected, eps, at.alpha_bar_prev).detach()  # line 11, Eq. 15
        z_next = z_next - change  # line 12; Alg. 3 lines 11-14
        return P2LState(z_next, C, moments)  # line 13

    def images(self, prior: LatentPrior, problem: Problem, state: P2LState) -> Tensor:
        return prior.decode(state.z)

    def brief(self) -> Self:
        return self.model_copy(update={"prompt_tuning": self.prompt_tuning and self.prompt_tuning.brief()})

    def kind(self, at: Step) -> Hashable:
        return (
            self._projection_at(at) is not None,
            tuning_at(self.prompt_tuning, at, self.steps) is not None,
        )

    def differentiates(self) -> bool:
        return self.guidance is not None or self.prompt_tuning is not None

    def doubts(self) -> list[str]:
        parts = {
            "prompt_tuning": self.prompt_tuning,
            "projection": self.projection,
            "guidance": self.guidance,
        }
        found = super().doubts() + doubted(self.steps, **parts)
        if not any((*parts.values(), self.finish, self.warm_start)):
            found.append(f"{', '.join(parts)}: all are null, and so nothing looks at the measurement")
        return found

    def _projection_at(self, at: Step) -> Projection | None:
        return self.projection if self.projection and at.number % self.projection.every == 0 else None
