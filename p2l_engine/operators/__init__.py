"""Linear operators A of y = A x + n: by name with `build`, or from one's own function with `linear`."""

from p2l_engine.operators.base import LinearOperator
from p2l_engine.operators.build import build, from_block, validate
from p2l_engine.operators.cropped import Cropped
from p2l_engine.operators.linear import linear
from p2l_engine.operators.settings import OperatorSettings

__all__ = [
    "Cropped",
    "LinearOperator",
    "OperatorSettings",
    "build",
    "from_block",
    "linear",
    "validate",
]
