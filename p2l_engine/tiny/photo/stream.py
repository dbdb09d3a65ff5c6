"""An endless stream of training images, drawn anew from the seed of each epoch, and held-out crops."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p2l_engine.tiny.data import ANY_PHOTOGRAPH, Pool, scenes
from p2l_engine.tiny.photo.collection import Half, Photograph, held_out_photographs
from p2l_engine.tiny.scenes import SIDE

HELD_OUT_SEED = 1_000_000  # epochs stay below it
HELD_OUT_EXTENTS = (360, 200, 110)  # pixels of a 480x360 photograph that become 64


def epoch(photographs: Sequence[Photograph], count: int, index: int) -> tuple[Pool, Pool]:
    """``count`` drawn scenes and as many crops of photographs, the same whenever ``index`` is the same."""
    return scenes(count, index), crops(photographs, count, index)


def crops(photographs: Sequence[Photograph], count: int, seed: int) -> Pool:
    """Random squares of photographs, half of them mirrored, reduced to (64, 64, 3).

    A square's side lies between 64 pixels and the whole of the photograph, uniform in its logarithm. One
    caption in four names no subject.
    """
    images, captions = [], []
    generator = np.random.default_rng([seed, 1])
    order = generator.permutation(count) % len(photographs)
    for which in order:
        pixels, caption = photographs[which]
        height, width = pixels.shape[:2]
        largest = min(height, width)
        extent = round(SIDE * (largest / SIDE) ** generator.random())
        top, left = generator.integers(height - extent + 1), generator.integers(width - extent + 1)
        image = reduced(pixels, top, left, extent)
        images.append(image[:, ::-1] if generator.random() < 0.5 else image)
        captions.append(ANY_PHOTOGRAPH if generator.random() < 0.25 else caption)
    return Pool(np.stack(images), captions)


def held_out_crops(half: Half) -> Pool:
    """Three squares of each held-out photograph: the whole scene, half of it and a detail, as (64, 64, 3)."""
    images, captions = [], []
    for index, (pixels, caption) in enumerate(held_out_photographs(half)):
        generator = np.random.default_rng([HELD_OUT_SEED, index])
        for extent in HELD_OUT_EXTENTS:
            top, left = (generator.integers(side - extent + 1) for side in pixels.shape[:2])
            images.append(reduced(pixels, top, left, extent))
            captions.append(caption)
    return Pool(np.stack(images), captions)


def reduced(pixels: NDArray[np.uint8], top: int, left: int, extent: int) -> NDArray[np.uint8]:
    """The square of ``extent`` pixels at (top, left), reduced to (64, 64, 3)."""
    square = Image.fromarray(pixels[top : top + extent, left : left + extent])
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
