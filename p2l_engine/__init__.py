"""P2L and the diffusion solvers it is compared with, for y = A x + n.

model = p2l_engine.load_model("tiny")
A = p2l_engine.operators.build("super_resolution", factor=8)
restored = p2l_engine.restore(model, A, y, method="p2l", steps=50)
"""

from p2l_engine import methods, metrics, operators
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.priors.load import load_model
from p2l_engine.priors.pixel import PixelDiffusion
from p2l_engine.restore import Restored, restore

__all__ = [
    "LatentDiffusion",
    "PixelDiffusion",
    "Restored",
    "load_model",
    "methods",
    "metrics",
    "operators",
    "restore",
]
