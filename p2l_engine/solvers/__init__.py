"""Algorithms that restore x from y = A x + n. A solver is one file and one line here."""

from p2l_engine.solvers.adjoint import Adjoint
from p2l_engine.solvers.base import LatentState, Problem, Sampler, Solver
from p2l_engine.solvers.bicubic import Bicubic
from p2l_engine.solvers.daps import DAPS
from p2l_engine.solvers.dds import DDS
from p2l_engine.solvers.diffpir import DiffPIR
from p2l_engine.solvers.dps import DPS
from p2l_engine.solvers.latino import Latino
from p2l_engine.solvers.p2l import P2L
from p2l_engine.solvers.pigdm import PiGDM
from p2l_engine.solvers.resample import ReSample
from p2l_engine.solvers.solve import Progress, Solution, evaluations, solve
from p2l_engine.solvers.treg import TReg
from p2l_engine.solvers.tv import TV

AnySolver = P2L | TReg | ReSample | DAPS | Latino | DPS | DiffPIR | DDS | PiGDM | TV | Bicubic | Adjoint

__all__ = [
    "AnySolver",
    "LatentState",
    "Problem",
    "Progress",
    "Sampler",
    "Solution",
    "Solver",
    "evaluations",
    "solve",
]
