"""Pools of training images: drawn scenes, and crops of photographs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p2l_engine.tiny.photographs import held_out_photographs, random_crop, training_photographs
from p2l_engine.tiny.scenes import SIDE, draw_scene

HELD_OUT_SEED = 1_000_000  # scenes and crops drawn from seeds at or above this one are never trained on
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


def training_crops(count: int, seed: int, mate_folder: Path) -> Pool:
    """``count`` crops of the training photographs, half mirrored; one caption in four names no subject."""
    return _crops(training_photographs(mate_folder), count, seed, mirror=True)


def held_out_crops(count: int, seed: int = HELD_OUT_SEED) -> Pool:
    """``count`` crops of the photographs that training never sees."""
    return _crops(list(held_out_photographs().values()), count, seed, mirror=False)


def _crops(photographs: list[tuple[NDArray[np.uint8], str]], count: int, seed: int, mirror: bool) -> Pool:
    images, captions = [], []
    for i in range(count):
        generator = np.random.default_rng([seed, i])
        photograph, caption = photographs[i % len(photographs)]
        crop = random_crop(photograph, generator, SIDE)
        images.append(crop[:, ::-1] if mirror and generator.random() < 0.5 else crop)
        captions.append(ANY_PHOTOGRAPH if generator.random() < 0.25 else caption)
    return Pool(np.stack(images), captions)
