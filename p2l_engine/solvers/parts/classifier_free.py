"""Classifier-free guidance (Ho and Salimans, 2021): the noise that a text tells of, made stronger."""

from torch import Tensor

from p2l_engine.priors.base import LatentPrior


def predict_guided(prior: LatentPrior, z: Tensor, t: int, C: Tensor, null: Tensor, scale: float) -> Tensor:
    """eps(null) + scale (eps(C) - eps(null)). C, null: (B, any L, D).

    Two evaluations an image, or one where the scale is 1, which leaves eps(C), or 0, which leaves eps(null).
    """
    if scale == 1:
        return prior.predict_noise(z, t, C)
    without = prior.predict_noise(z, t, null)
    return without if scale == 0 else without + scale * (prior.predict_noise(z, t, C) - without)


def unread(scale: float, null_prompt: str) -> list[str]:
    """What is doubted of a null prompt beside a guidance scale."""
    if scale != 1 or not null_prompt:
        return []
    return [f"null_prompt is {null_prompt!r}, but at a guidance_scale of 1 nothing reads it"]
