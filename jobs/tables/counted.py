"""What a method computes for one image, without weights."""

from __future__ import annotations

from functools import cache

from p2l_engine.counting import count_solver
from p2l_engine.priors.load import Model
from p2l_engine.solvers import Solver


@cache
def teraflop(prior: Model, method: Solver, sides: tuple[int, int]) -> float:
    """An image (height, width) to itself, by whichever operator, which is little beside the networks.

    prior: on torch's device `meta`. 0 of a method without a network.
    """
    if method.prior is None:
        return 0.0
    image = (3, *sides)
    return count_solver(prior, image, image, 1, method).flop / 1e12
