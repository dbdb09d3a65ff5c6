"""Decoded numbers as Pillow images, and the error of a picture that cannot be used."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline import limits

AT_ONCE = 2**20  # numbers; arithmetic on all of a large picture would take many times its memory


class ImageError(ValueError):
    """An image that cannot be used; the message names the cause first, then the details after a colon."""


def check_pixels(width: int, height: int) -> None:
    """Raises ImageError for more pixels than are decoded."""
    if width * height > limits.IMAGE_PIXELS:
        raise ImageError(f"image too large: {width} x {height} pixels; at most {limits.IMAGE_PIXELS:,}")


def scaled(values: np.ndarray, white: int, top: int) -> np.ndarray:
    """Unsigned integers from 0 to `white`, to 0 to `top` (255: uint8, 65535: uint16), rounded."""
    if white == top:
        return values
    flat = values.reshape(-1)
    out = np.empty(flat.shape, np.uint8 if top == 255 else np.uint16)
    for start in range(0, len(flat), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        out[part] = np.rint(flat[part] * (top / white))
    return out.reshape(values.shape)


def to_image(values: np.ndarray, white: int) -> Image.Image:
    """Unsigned integers (H, W, channels) up to `white`: grey, grey and alpha, RGB or RGBA, 8 bits each.

    Deep grey without alpha keeps 16 bits, 65535 for white (mode I;16).
    """
    if values.shape[2] > 1:
        return Image.fromarray(scaled(values, white, 255))
    return Image.fromarray(scaled(values[..., 0], white, 65535 if white > 255 else 255))
