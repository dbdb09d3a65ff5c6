"""The one driver: any solver's steps on a problem."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from p2l_engine.priors.base import Prior
from p2l_engine.solvers.base import Problem, Solver, finite, select

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Solution:
    """What came through. places: of those images in the batch; images: (len(places), 3, H, W), state: theirs.

    errors: by place, why the others did not. nfe: noise predictions for each image.
    """

    places: list[int]
    images: Tensor
    state: Any
    errors: dict[int, str]
    nfe: int


def solve(prior: Prior | None, solver: Solver, problem: Problem, progress: Progress | None) -> Solution:
    """Runs all steps. An image that meets not-a-number or infinity stops alone."""
    places, errors, nfe = list(range(len(problem.y))), dict[int, str](), 0
    schedule = solver.schedule(prior)
    state = solver.start(prior, problem)
    for done, at in enumerate(schedule, 1):
        before = evaluations(prior)
        state = solver.step(prior, problem, state, at)
        nfe += (evaluations(prior) - before) // len(places)
        sound = finite(state).tolist()
        if not all(sound):
            why = f"not-a-number or infinity at step {at.number} of {len(schedule)}"
            errors |= {place: why for place, ok in zip(places, sound, strict=True) if not ok}
            keep = [i for i, ok in enumerate(sound) if ok]
            places, state = [places[i] for i in keep], select(state, keep)
            if keep:
                problem = problem.select(keep)
        if progress is not None:
            progress(done, len(schedule))
        if not places:
            break
    with torch.no_grad():
        images = solver.finished(prior, problem, state) if places else torch.empty(0)
    return Solution(places, images, state, errors, nfe)


def evaluations(prior: Prior | None) -> int:
    """Noise predictions that a prior made so far, one for each image of each call."""
    return prior.evaluations if prior is not None else 0
