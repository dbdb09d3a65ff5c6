"""An operator on a larger canvas: A sees only the picture inside a border."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from p2l_engine.operators.base import ImageShape, LinearOperator, Shape, check_image_shape


@dataclass(frozen=True, eq=False)
class Cropped(LinearOperator):
    """A' x = A (crop x): x on a canvas, the picture with `padding` = (bottom, right) pixels added to it.

    What nothing measures stays as it is: proximal and glue change x inside the picture only.
    """

    operator: LinearOperator
    padding: tuple[int, int]
    name: str = field(init=False)  # the operator's own

    def __post_init__(self) -> None:
        if len(self.padding) != 2 or min(self.padding) < 0:
            raise ValueError(f"padding: got {self.padding}; allowed: (bottom, right), each at least 0")
        object.__setattr__(self, "name", self.operator.name)

    def measurement_shape(self, image_shape: Shape) -> Shape:
        channels, height, width = check_image_shape(self.name, image_shape)
        bottom, right = self.padding
        if height <= bottom or width <= right:
            raise ValueError(
                f"{self.name}: got a canvas of height {height} and width {width}; "
                f"allowed: more than its padding (bottom, right), {self.padding}"
            )
        return self.operator.measurement_shape((channels, height - bottom, width - right))

    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        channels, height, width = self.operator.image_shape(measurement_shape)
        bottom, right = self.padding
        return channels, height + bottom, width + right

    def crop(self, x: Tensor) -> Tensor:
        """The picture (B, 3, H, W) of a canvas."""
        bottom, right = self.padding
        return x[..., : x.shape[-2] - bottom, : x.shape[-1] - right]

    def __call__(self, x: Tensor) -> Tensor:
        self.measurement_shape(x.shape[1:])
        return self.operator(self.crop(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._pad(self.operator.adjoint(y))

    @torch.no_grad()
    def proximal(self, y: Tensor, x: Tensor, lam: float | Tensor) -> Tensor:
        picture = self.crop(x)
        return x + self._pad(self.operator.proximal(y, picture, lam) - picture)

    def glue(self, y: Tensor, x: Tensor) -> Tensor:
        picture = self.crop(x)
        return x + self._pad(self.operator.glue(y, picture) - picture)

    def backproject(self, y: Tensor) -> Tensor:
        """The picture's, its edge pixels repeated over the border."""
        return self._pad(self.operator.backproject(y), mode="replicate")

    def measure(self, x: Tensor, sigma: float, generators: Sequence[torch.Generator]) -> Tensor:
        return self.operator.measure(self.crop(x), sigma, generators)

    def observed(self, y: Tensor) -> Tensor:
        return self.operator.observed(y)

    def entries(self, y: Tensor) -> Tensor:
        return self.operator.entries(y)

    def unknowns(self, measurement_shape: Shape) -> int:
        """Those of the picture, without what pads the canvas."""
        return self.operator.unknowns(measurement_shape)

    def select(self, indices: Sequence[int]) -> LinearOperator:
        return replace(self, operator=self.operator.select(indices))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        return replace(self, operator=self.operator.to(device, dtype))

    def _pad(self, picture: Tensor, mode: str = "constant") -> Tensor:
        bottom, right = self.padding
        return F.pad(picture, (0, right, 0, bottom), mode=mode)
