"""Images to train on, drawn anew from the seed of each epoch, and those held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from p2l_engine.tiny.collection import Half, Photograph, held_out_photographs
from p2l_engine.tiny.scenes import SIDE, draw_scene

HELD_OUT_SEED = 1_000_000  # what is drawn from seeds at or above this one is never trained on
HELD_OUT_SCENES = 48
HELD_OUT_EXTENTS = (360, 200, 110)  # pixels of a 480x360 photograph that become 64
ANY_PHOTOGRAPH = "a photograph"


@dataclass(frozen=True)
class Pool:
    """Images (N, 64, 64, 3) uint8 and a caption for each."""

    images: NDArray[np.uint8]
    captions: list[str]

    def batch(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` as (B, 3, 64, 64) in [-1, 1]."""
        return to_tensor(self.images[indices.numpy()])


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [-1, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def scenes(count: int, seed: int) -> Pool:
    """``count`` drawn scenes."""
    drawn = [draw_scene(np.random.default_rng([seed, i])) for i in range(count)]
    return Pool(np.stack([image for image, _ in drawn]), [caption for _, caption in drawn])


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


def held_out_scenes() -> Pool:
    """Scenes drawn from a seed that training never uses."""
    return scenes(HELD_OUT_SCENES, HELD_OUT_SEED)


def held_out_crops(half: Half) -> Pool:
    """Three squares of each held-out photograph: the whole scene, half of it and a detail, as (64, 64, 3)."""
    images, captions = [], []
    for index, (pixels, caption) in enumerate(held_out_photographs(half).values()):
        generator = np.random.default_rng([HELD_OUT_SEED, index])
        for extent in HELD_OUT_EXTENTS:
            top, left = (generator.integers(side - extent + 1) for side in pixels.shape[:2])
            images.append(reduced(pixels, top, left, extent))
            captions.append(caption)
    return Pool(np.stack(images), captions)


def reduced(
    pixels: NDArray[np.uint8], top: int, left: int, extent: int, side: int = SIDE
) -> NDArray[np.uint8]:
    """The square of ``extent`` pixels at (top, left), reduced to (side, side, 3)."""
    square = Image.fromarray(pixels[top : top + extent, left : left + extent])
    return np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))
