"""Pixels against pixels: PSNR and SSIM of uint8 arrays (H, W, 3), RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage.metrics import structural_similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

SSIM_WINDOW = 11  # pixels; both sides of an image must be at least this long


def to_uint8(images: torch.Tensor) -> NDArray[np.uint8]:
    """Images (..., 3, H, W) in [-1, 1] as uint8 arrays (..., H, W, 3), clamped, then rounded to nearest.

    Raises ValueError when a value is not finite: such an image has no pixels to store.
    """
    if not torch.isfinite(images).all():
        raise ValueError("an image holds NaN or infinity; expected finite values in [-1, 1]")
    levels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.movedim(-3, -1).cpu().numpy())


def psnr(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays (H, W, 3); infinite when they are identical.

    Raises ValueError when they are not two uint8 RGB images of one size.
    """
    check_pair(reference, image)
    error = np.mean((reference.astype(np.float64) - image.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> float | None:
    """Structural similarity in [-1, 1] of two uint8 arrays (H, W, 3); None when a side is below 11 pixels.

    Raises ValueError when they are not two uint8 RGB images of one size.
    """
    check_pair(reference, image)
    if min(image.shape[:2]) < SSIM_WINDOW:
        return None
    return float(
        structural_similarity(
            reference,
            image,
            channel_axis=-1,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def check_pair(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    """Raises ValueError when the two are not uint8 RGB images of one size."""
    for name, array in (("reference", reference), ("image", image)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"{name}: expected a uint8 array (H, W, 3), got {array.dtype} {array.shape}")
    if reference.shape != image.shape:
        raise ValueError(f"reference and image must have one size, got {reference.shape} and {image.shape}")
