"""Operators of a few images of 16x16 pixels, by which a solver is held against a second writing of it."""

from __future__ import annotations

import torch

from p2l_engine import operators
from p2l_engine.operators.base import LinearOperator


def pooling(rows: slice) -> LinearOperator:
    """Alike for every image."""
    return operators.build("super_resolution", factor=4)


def mask(rows: slice) -> LinearOperator:
    """Of three images, each with its own."""
    masks = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    return operators.build("inpainting", mask="given", masks=masks[rows].double())


def blur(rows: slice) -> LinearOperator:
    """Of two images, each with its own."""
    kernels = torch.rand(2, 1, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return operators.build("blur", kernels=(kernels / kernels.sum(dim=(2, 3), keepdim=True))[rows])


CASES = [(pooling, 2), (mask, 3), (blur, 2)]  # each with its number of images
