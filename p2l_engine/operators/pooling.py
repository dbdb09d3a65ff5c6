"""Super-resolution: A averages blocks of f x f pixels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from p2l_engine.operators.base import ImageShape, LinearOperator, Shape, check_image_shape, per_image
from p2l_engine.operators.settings import Data, OperatorSettings


@dataclass(frozen=True, eq=False)
class AveragePooling(LinearOperator):
    """(3, H, W) -> (3, H/f, W/f), H and W multiples of f. A A^T = I / f^2: all has a closed form."""

    factor: int
    name: str = "super_resolution"
    keeps_range: ClassVar[bool] = True

    def measurement_shape(self, image_shape: Shape) -> Shape:
        channels, height, width = check_image_shape(self.name, image_shape)
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"{self.name}: got an image of height {height} and width {width}; allowed: multiples of the "
                f"factor {self.factor}; crop or resize the image, or take another factor"
            )
        return channels, height // self.factor, width // self.factor

    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        channels, height, width = check_image_shape(self.name, measurement_shape)
        return channels, height * self.factor, width * self.factor

    def __call__(self, x: Tensor) -> Tensor:
        self.measurement_shape(x.shape[1:])
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.backproject(y) / self.factor**2

    @torch.no_grad()
    def proximal(self, y: Tensor, x: Tensor, lam: float | Tensor) -> Tensor:
        """x + A^T (A A^T + lam)^-1 (y - A x)."""
        return x + self.backproject(y - self(x)) / (1 + per_image(lam, x) * self.factor**2)

    def glue(self, y: Tensor, x: Tensor) -> Tensor:
        """x + A^+ (y - A x): the nearest image whose block means are y. A^+ = f^2 A^T."""
        return x + self.backproject(y - self(x))

    def backproject(self, y: Tensor) -> Tensor:
        """Plain enlargement: every value of y fills its block."""
        self.image_shape(y.shape[1:])
        return y.repeat_interleave(self.factor, dim=-2).repeat_interleave(self.factor, dim=-1)


class SuperResolution(OperatorSettings):
    """Super-resolution by a factor."""

    name: Literal["super_resolution"] = "super_resolution"
    factor: int = Field(8, ge=1, strict=True, description="a whole number of at least 1")

    @property
    def title(self) -> str:
        return f"{super().title} ×{self.factor}"

    @property
    def column(self) -> str:
        return f"{self.name} x{self.factor}"

    def make(self, data: Data) -> AveragePooling:
        return AveragePooling(self.factor)
