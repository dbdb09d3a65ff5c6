"""Total variation as a method: `p2l_engine.solvers.parts.total_variation`, each of whose steps is one."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from p2l_engine.schedule import Step
from p2l_engine.solvers.base import Problem, Solver
from p2l_engine.solvers.parts.total_variation import STEPS, TVState, begin, step, weights


class TV(Solver):
    """weight: w; null takes it from the noise of the measurement. steps: iterations."""

    name: Literal["tv"] = "tv"
    steps: int = Field(default=STEPS, ge=1)
    weight: float | None = Field(default=None, gt=0)

    def schedule(self, prior: None) -> Sequence[Step]:
        return tuple(Step(number) for number in range(self.steps, 0, -1))

    def start(self, prior: None, problem: Problem) -> TVState:
        w = weights(problem.A, problem.y, problem.noise_level)
        return begin(problem.A, problem.y, w if self.weight is None else w.fill_(self.weight))

    def step(self, prior: None, problem: Problem, state: TVState, at: Step) -> TVState:
        return step(problem.A, problem.y, state)

    def images(self, prior: None, problem: Problem, state: TVState) -> Tensor:
        return state.x
