"""Bicubic enlargement, as Pillow does it: what everybody has at hand for super-resolution."""

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from p2l_engine.solvers.base import ImageState, Problem, Solver


class Bicubic(Solver):
    """Measurements that are smaller pictures are enlarged; of others it gives what `adjoint` gives."""

    name: Literal["bicubic"] = "bicubic"

    def start(self, prior: None, problem: Problem) -> ImageState:
        y, shape = problem.y, problem.image_shape
        if y.ndim == 4 and y.shape[1] == shape[0] and tuple(y.shape[2:]) != shape[1:]:
            return ImageState(torch.stack([_enlarged(picture, shape[1:]) for picture in y]))
        return ImageState(problem.A.backproject(y))

    def images(self, prior: None, problem: Problem, state: ImageState) -> Tensor:
        return state.x


def _enlarged(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, h, w) to (3, *size), by Pillow in float32, channel by channel. On `meta`, the shape alone."""
    if picture.is_meta:
        return picture.new_empty(len(picture), *size)
    channels = [
        np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BICUBIC))
        for channel in picture.float().cpu().numpy()
    ]
    return torch.from_numpy(np.stack(channels)).to(picture)
