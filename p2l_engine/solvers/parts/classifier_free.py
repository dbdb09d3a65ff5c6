"""Classifier-free guidance (Ho and Salimans, 2021): the noise that a text tells of, made stronger."""

from torch import Tensor

from p2l_engine.priors.base import LatentPrior


def predict_guided(prior: LatentPrior, z: Tensor, t: int, C: Tensor, null: Tensor, scale: float) -> Tensor:
    """eps(null) + scale (eps(C) - eps(null)), two evaluations an image. C, null: (B, any L, D)."""
    without = prior.predict_noise(z, t, null)
    return without + scale * (prior.predict_noise(z, t, C) - without)
