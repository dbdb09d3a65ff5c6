"""LATINO and LATINO-PRO (Spagnoletti, Prost, Almansa, Papadakis, Pereyra, ICCV 2025): a few steps are enough.

| symbol | code | meaning |
|---|---|---|
| a, a' | at.alpha_bar, at.alpha_bar_prev | share of signal before and after the step; 1 at the end |
| u | u | D(z_0|t), limited to [-1, 1] |
| x | x | proximal map of u (Eq. 19's), of weight lambda |
| z | z | E(x), noised to a' afresh |
| delta | delta | of lambda = sigma_y^2 / (delta (1 - a)) in the authors' code |

The network is to be a distilled one, whose z_0|t is a sample and not a mean: a consistency model's scalings
c_skip and c_out are 0 and 1 to a millionth at the timesteps of 8 steps. No gradient, no guidance; a step is a
call of the network, a decoding and an encoding. LATINO-PRO restores in rounds first, which tune the prompt.
P2L's prompt tuning (Algorithm 2) may come before the steps instead, which no paper has.

Where text and code of the authors differ: Algorithm 1 ends at x, their code at D(E(x)) (`result`). Their
delta, set by hand for each operator and scale, is a setting; without it lambda is found such that y - A x is
as large as the noise. The start is y brought to the shape of an image, where they take A^T y, and fill the
hole of a box from around it. Their |y - A u| has noise added anew, which is left out here.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from p2l_engine.mistakes import refuse
from p2l_engine.operators.discrepancy import discrepancy_weight
from p2l_engine.priors.base import LatentPrior, Prior
from p2l_engine.schedule import Step, ddim_step, posterior_mean
from p2l_engine.settings import Settings
from p2l_engine.solvers.base import LatentSampler, LatentState, Problem, doubted, limited
from p2l_engine.solvers.parts.prompt_ascent import USUAL_FIXED, PromptAscent, ascend, direction
from p2l_engine.solvers.parts.prompt_tuning import PromptTuning, optimize_embedding, tuning_at

LEAST_DELTA = 1e-12


class Delta(Settings):
    """The authors' delta: `early` at timesteps above `split`, then `late`, times what `of` names of an image.

    residual: |y - A u|, over all entries; residual_by_noise: the same over sigma_y.
    """

    early: float = Field(gt=0)
    late: float = Field(gt=0)
    split: int = Field(ge=0)
    of: Literal["one", "residual", "residual_by_noise"] = "residual"


@dataclass(frozen=True)
class LatinoState(LatentState):
    """x: the image of z (B, 3, H, W). directions: of the prompt's ascent so far, summed (B, L, D)."""

    x: Tensor
    directions: Tensor


class Latino(LatentSampler):
    """LATINO, and with its prompt's ascent LATINO-PRO.

    grid: how many evenly spaced timesteps the network was distilled at, of which the steps are taken, such as
    50 for LCM-LoRA; null: any. discrepancy: root mean square of y - A x after each proximal map, in units of
    sigma_y. delta: takes its place. result: x of the last step, or its latent decoded. prompt_tuning: before
    each step, in place of the ascent.
    """

    later: ClassVar[frozenset[str]] = LatentSampler.later | {"prompt_tuning"}
    name: Literal["latino", "latino_pro"] = "latino"
    steps: int = Field(default=8, ge=1)
    grid: int | None = Field(default=None, ge=1)
    discrepancy: float = Field(default=1.0, gt=0)
    delta: Delta | None = None
    result: Literal["image", "latent"] = "image"
    prompt_ascent: PromptAscent | None = None
    prompt_tuning: PromptTuning | None = None

    @classmethod
    def defaults(cls, name: str) -> dict[str, Any]:
        return {"prompt_ascent": {}} if name == "latino_pro" else {}

    @model_validator(mode="after")
    def _one_tuning(self) -> "Latino":
        if self.prompt_ascent is not None and self.prompt_tuning is not None:
            refuse(["prompt_tuning: got it beside prompt_ascent; allowed: one of them, the other null"])
        if self.prompt_ascent is None and self.name == "latino_pro":
            refuse(["prompt_ascent: got None; allowed: its settings, or the method latino, which has none"])
        return self

    @model_validator(mode="after")
    def _on_the_grid(self) -> "Latino":
        if self.grid is not None:
            of_rounds = {"prompt_ascent.steps": self.prompt_ascent.steps} if self.prompt_ascent else {}
            refuse(
                [
                    f"{name}: got {steps}; allowed: 1 to {self.grid}, the timesteps of the grid"
                    for name, steps in ({"steps": self.steps} | of_rounds).items()
                    if steps > self.grid
                ]
            )
        return self

    def schedule(self, prior: Prior) -> Sequence[Step]:
        table = prior.process.alphas_cumprod
        grid = self.grid or len(table)
        times = timesteps(len(table), grid, self.steps, "steps")
        if self.prompt_ascent is not None:
            ascent = self.prompt_ascent
            times = ascent.rounds * timesteps(len(table), grid, ascent.steps, "prompt_ascent.steps") + times
        alphas = [*(table[t].item() for t in times), 1.0]
        return [Step(len(times) - k, t, alphas[k], alphas[k + 1]) for k, t in enumerate(times)]

    @torch.no_grad()
    def start(self, prior: LatentPrior, problem: Problem) -> LatinoState:
        assert problem.C is not None
        x = problem.A.backproject(problem.y).clamp(-1, 1)
        z = ddim_step(prior.encode(x), problem.first_latents(prior), self.schedule(prior)[0].alpha_bar)
        return LatinoState(z, problem.C, x, torch.zeros_like(problem.C))

    def step(self, prior: LatentPrior, problem: Problem, state: LatinoState, at: Step) -> LatinoState:
        climbs = self._climbs(at)
        tuning = tuning_at(self.prompt_tuning, at, self.steps)
        C = optimize_embedding(prior, problem, state.z, state.C, at, tuning)
        C, directions = C.detach().requires_grad_(climbs), state.directions
        with torch.set_grad_enabled(climbs):
            z0 = posterior_mean(state.z, prior.predict_noise(state.z, at.t, C), at.alpha_bar)
        with torch.no_grad():
            u = limited(prior.decode(z0))
            x = problem.A.proximal(problem.y, u, self._weight(problem, u, at)).clamp(-1, 1)
            z = prior.encode(x)
            if at.number > 1:
                z = ddim_step(z, problem.noise(z), at.alpha_bar_prev)
        if self.prompt_ascent is not None:
            if climbs:
                directions = directions + direction(z, z0, C, at.alpha_bar_prev, self.prompt_ascent)
            elif (done := self._rounds_done(at)) < self.prompt_ascent.rounds:
                assert problem.C is not None
                C = ascend(C, problem.C, directions, done, self.prompt_ascent)
        return LatinoState(z, C.detach(), x, directions)

    def images(self, prior: LatentPrior, problem: Problem, state: LatinoState) -> Tensor:
        return state.x if self.result == "image" else prior.decode(state.z)

    def differentiates(self) -> bool:
        return self.prompt_tuning is not None

    def kind(self, at: Step) -> Hashable:
        return self._climbs(at), tuning_at(self.prompt_tuning, at, self.steps) is not None

    def misfits(self, model: Any) -> list[str]:
        found, fixed = super().misfits(model), self._fixed_tokens()
        if fixed > USUAL_FIXED and fixed >= (length := model.prompt_length):
            found.append(f"prompt_ascent.fixed_tokens: got {fixed}; allowed: 0 to {length - 1}")
        return found

    def asks_of_model(self) -> bool:
        return super().asks_of_model() or self._fixed_tokens() > USUAL_FIXED

    def doubts(self) -> list[str]:
        found = super().doubts() + doubted(self.steps, prompt_tuning=self.prompt_tuning)
        if self.delta is not None and self.discrepancy != type(self).model_fields["discrepancy"].default:
            found.append(f"discrepancy is {self.discrepancy}, but delta takes its place")
        return found

    def brief(self) -> Self:
        return self.model_copy(update={"prompt_tuning": self.prompt_tuning and self.prompt_tuning.brief()})

    def _weight(self, problem: Problem, u: Tensor, at: Step) -> Tensor:
        """lambda (B,)."""
        sigma = problem.noise_level
        if self.delta is None:
            return discrepancy_weight(problem.A, problem.y, u, self.discrepancy * sigma)
        delta = u.new_full((len(u),), self.delta.early if at.t > self.delta.split else self.delta.late)
        if self.delta.of != "one":
            delta = delta * torch.linalg.vector_norm((problem.y - problem.A(u)).flatten(1), dim=1)
        if self.delta.of == "residual_by_noise":
            delta = delta / sigma
        # An image that is not finite must not stop the others.
        delta = torch.nan_to_num(delta, nan=1.0).clamp_min(LEAST_DELTA)
        return sigma**2 / (delta * (1 - at.alpha_bar))

    def _fixed_tokens(self) -> int:
        return self.prompt_ascent.fixed_tokens if self.prompt_ascent else 0

    def _rounds_done(self, at: Step) -> int:
        """How many rounds are done before a step; all of them in the restoration of the result."""
        if self.prompt_ascent is None:
            return 0
        ascent = self.prompt_ascent
        left = at.number - self.steps  # the rounds' steps from this one on
        return ascent.rounds if left <= 0 else ascent.rounds - -(-left // ascent.steps)

    def _climbs(self, at: Step) -> bool:
        """Whether a step gives a direction: all of a round but its last."""
        if self.prompt_ascent is None or at.number <= self.steps:
            return False
        return (at.number - self.steps) % self.prompt_ascent.steps != 1


def timesteps(available: int, grid: int, steps: int, name: str) -> list[int]:
    """`steps` of `grid` timesteps, which are the multiples of available // grid, less 1.

    Noisiest first: 999, 874, ... 124 for 8 of 1000, 999, 879, 759, ... 139 for 8 of a grid of 50; a grid that
    does not divide them starts below, one of 48 at 959. ValueError where there are not as many; name: of the
    setting that `steps` is.
    """
    if grid > available:
        raise ValueError(f"grid: got {grid}; allowed: 1 to {available}, which the model was trained with")
    if steps > grid:
        raise ValueError(f"{name}: got {steps}; allowed: 1 to {grid}, the timesteps there are")
    return [(grid - k * grid // steps) * (available // grid) - 1 for k in range(steps)]
