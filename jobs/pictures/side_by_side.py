"""Pictures (H, W, 3) uint8 set side by side for a person to compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GAP = 8  # pixels of white between pictures
SEEN_SIDE = 256  # pixels; smaller pictures are enlarged, each pixel repeated

Picture = NDArray[np.uint8]


def row(pictures: Sequence[Picture]) -> Picture:
    """Pictures from left to right; they have one size once the small ones are enlarged."""
    return _joined([_enlarged(picture) for picture in pictures], axis=1)


def sheet(rows: Sequence[Sequence[Picture]]) -> Picture:
    """Rows of pictures, from top to bottom."""
    return _joined([row(pictures) for pictures in rows], axis=0)


def _joined(parts: Sequence[Picture], axis: int) -> Picture:
    gap = np.full([GAP if i == axis else side for i, side in enumerate(parts[0].shape)], 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=axis)


def _enlarged(picture: Picture) -> Picture:
    times = max(1, SEEN_SIDE // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)
