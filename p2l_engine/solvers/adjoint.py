"""y brought to the shape of an image: the least that any other solver has to do better than."""

from typing import Literal

from torch import Tensor

from p2l_engine.solvers.base import ImageState, Problem, Solver


class Adjoint(Solver):
    """A^T y over A^T A 1: for super-resolution plain enlargement, for inpainting grey holes."""

    name: Literal["adjoint"] = "adjoint"

    def start(self, prior: None, problem: Problem) -> ImageState:
        return ImageState(problem.A.backproject(problem.y))

    def images(self, prior: None, problem: Problem, state: ImageState) -> Tensor:
        return state.x
