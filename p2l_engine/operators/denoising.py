"""Denoising: A = I."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from p2l_engine.operators.base import ImageShape, LinearOperator, Shape, check_image_shape, per_image
from p2l_engine.operators.settings import Data, OperatorSettings


@dataclass(frozen=True, eq=False)
class Identity(LinearOperator):
    """A x = x: what is lost is only what the noise hides."""

    name: str = "denoising"
    keeps_range: ClassVar[bool] = True

    def measurement_shape(self, image_shape: Shape) -> Shape:
        return check_image_shape(self.name, image_shape)

    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        return check_image_shape(self.name, measurement_shape)

    def __call__(self, x: Tensor) -> Tensor:
        self.measurement_shape(x.shape[1:])
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    @torch.no_grad()
    def proximal(self, y: Tensor, x: Tensor, lam: float | Tensor) -> Tensor:
        """(y + lam x) / (1 + lam)."""
        weight = per_image(lam, x)
        return (y + weight * x) / (1 + weight)


class Denoising(OperatorSettings):
    """Denoising, which has no settings: the noise is the job's."""

    name: Literal["denoising"] = "denoising"

    def make(self, data: Data) -> Identity:
        return Identity()
