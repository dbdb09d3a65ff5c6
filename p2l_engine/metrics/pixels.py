"""Pixels against pixels: PSNR and SSIM of uint8 arrays (H, W, 3), RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import correlate1d

if TYPE_CHECKING:
    from numpy.typing import NDArray

SSIM_WINDOW = 11  # pixels; both sides of an image must be at least this long
_EDGE = SSIM_WINDOW // 2  # pixels whose window is not in the image, on each side
_INNER = (slice(_EDGE, -_EDGE),) * 2
_GAUSSIAN = np.exp(-0.5 / 1.5**2 * np.arange(-_EDGE, _EDGE + 1) ** 2)  # standard deviation 1.5
_WINDOW = _GAUSSIAN / _GAUSSIAN.sum()
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


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

    Wang et al. (2004), Eq. 13, with their Gaussian window; the mean over the channels and the pixels whose
    window is in the image. Raises ValueError when they are not two uint8 RGB images of one size.
    """
    check_pair(reference, image)
    if min(image.shape[:2]) < SSIM_WINDOW:
        return None
    return float(np.mean([_similarity(reference[..., channel], image[..., channel]) for channel in range(3)]))


def _similarity(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    """Of one channel (H, W)."""
    x, y = reference.astype(np.float64), image.astype(np.float64)
    ux, uy, uxx, uyy, uxy = (_local_mean(values) for values in (x, y, x * x, y * y, x * y))
    luminance = ux**2 + uy**2 + _C1
    contrast = (uxx - ux * ux) + (uyy - uy * uy) + _C2
    similar = np.empty(x.shape)[_INNER]  # a part of an array, which is summed row by row
    np.divide((2 * ux * uy + _C1) * (2 * (uxy - ux * uy) + _C2), luminance * contrast, out=similar)
    return float(similar.mean())


def _local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted by the window around each pixel whose window is in the image: (H - 10, W - 10) of (H, W)."""
    for axis in (0, 1):
        values = correlate1d(values, _WINDOW, axis)
    return values[_INNER]


def check_pair(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    """Raises ValueError when the two are not uint8 RGB images of one size."""
    for name, array in (("reference", reference), ("image", image)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"{name}: expected a uint8 array (H, W, 3), got {array.dtype} {array.shape}")
    if reference.shape != image.shape:
        raise ValueError(f"reference and image must have one size, got {reference.shape} and {image.shape}")
