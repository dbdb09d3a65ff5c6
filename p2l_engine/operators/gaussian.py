"""Gaussian blur: A works along rows and columns apart, so that each is one small matrix.

| symbol | code | meaning |
|---|---|---|
| R | matrix | blur along an axis of so many pixels, the picture continued beyond its edges |
| R = U S V^T | U, s, V | its singular value decomposition, S = diag(s) |
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from p2l_engine.operators.base import ImageShape, LinearOperator, Shape, per_image
from p2l_engine.operators.blur import KernelSize, Padding, check_fits
from p2l_engine.operators.settings import Data, OperatorSettings


class Axis(NamedTuple):
    """matrix, U, V: (n, n); s: (n,)."""

    matrix: Tensor
    U: Tensor
    s: Tensor
    V: Tensor


@dataclass(frozen=True)
class SeparableGaussianBlur(LinearOperator):
    """A x = R_rows x R_columns^T of each channel: convolution with a Gaussian cut to size x size pixels.

    sigma: its standard deviation in pixels. padding: as of `Blur`. ValueError for an image that is too small.
    """

    size: int
    sigma: float
    padding: Padding = "reflect"
    name: str = "gaussian_blur"
    keeps_range: ClassVar[bool] = True

    def measurement_shape(self, image_shape: Shape) -> Shape:
        return self.image_shape(image_shape)

    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        return check_fits(self.name, measurement_shape, (self.size, self.size), self.padding)

    def __call__(self, x: Tensor) -> Tensor:
        rows, columns = self._axes(x)
        return rows.matrix @ x @ columns.matrix.mT

    def adjoint(self, y: Tensor) -> Tensor:
        rows, columns = self._axes(y)
        return rows.matrix.mT @ y @ columns.matrix

    @torch.no_grad()
    def proximal(self, y: Tensor, x: Tensor, lam: float | Tensor) -> Tensor:
        """x + A^T (A A^T + lam)^-1 (y - A x), where A A^T is diagonal in the singular vectors of its axes."""
        rows, columns = self._axes(x)
        strength = torch.outer(rows.s, columns.s)
        inside = rows.U.mT @ (y - self(x)) @ columns.U
        inside = inside * strength / (strength.square() + per_image(lam, x))
        return x + rows.V @ inside @ columns.V.mT

    def _axes(self, x: Tensor) -> tuple[Axis, Axis]:
        height, width = self.image_shape(x.shape[1:])[1:]
        kept = partial(axis_on, self.size, self.sigma, self.padding, dtype=x.dtype, device=x.device)
        return kept(side=height), kept(side=width)


class GaussianBlur(OperatorSettings):
    """Blur by a Gaussian. size: the kernel's side in pixels; sigma: its standard deviation in pixels."""

    name: Literal["gaussian_blur"] = "gaussian_blur"
    size: KernelSize = 61
    sigma: float = Field(3.0, gt=0, strict=True, description="a number of pixels above 0")
    padding: Padding = "reflect"

    def make(self, data: Data) -> SeparableGaussianBlur:
        return SeparableGaussianBlur(self.size, self.sigma, self.padding)


def gaussian_profile(size: int, sigma: float) -> Tensor:
    """(size,), float64, sum 1: the bell of standard deviation sigma (pixels) at pixel centres."""
    steps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    bell = torch.exp(-(steps**2) / (2 * sigma**2))
    return bell / bell.sum()


@lru_cache(maxsize=8)
def axis(size: int, sigma: float, padding: Padding, side: int) -> Axis:
    """Blur along an axis of `side` pixels, in float64 on the CPU."""
    with torch.inference_mode(False), torch.no_grad():  # what is kept must serve gradients later
        points = F.pad(torch.eye(side, dtype=torch.float64)[:, None], (size // 2, size // 2), mode=padding)
        matrix = F.conv1d(points, gaussian_profile(size, sigma)[None, None])[:, 0].T
        left, s, right = torch.linalg.svd(matrix)
        return Axis(matrix, left, s, right.mT)


@lru_cache(maxsize=8)
def axis_on(
    size: int, sigma: float, padding: Padding, side: int, dtype: torch.dtype, device: torch.device
) -> Axis:
    """The same in a precision and on a device, where it stays."""
    with torch.inference_mode(False), torch.no_grad():
        return Axis(*(part.to(device, dtype) for part in axis(size, sigma, padding, side)))
