"""Inpainting: A keeps the observed pixels and puts 0 in the holes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from p2l_engine.operators.base import (
    ImageShape,
    LinearOperator,
    Shape,
    check_batch,
    check_image_shape,
    lasting,
    per_image,
)
from p2l_engine.operators.brush import CLASSES, free_form_mask
from p2l_engine.operators.settings import Data, OperatorSettings


@dataclass(frozen=True, eq=False)
class Masking(LinearOperator):
    """A x = m x, one mask an image, or one for all; channels share it.

    mask: (B, 1, H, W) of 0 and 1, 1 = observed; any dtype, kept as bool. ValueError for anything else.
    """

    mask: Tensor
    name: str = "inpainting"
    keeps_range: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", lasting(_check_mask(self.mask)))

    def measurement_shape(self, image_shape: Shape) -> Shape:
        return self.image_shape(image_shape)

    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        shape = check_image_shape(self.name, measurement_shape)
        if shape[1:] != self.mask.shape[2:]:
            raise ValueError(
                f"{self.name}: got an image of height and width {shape[1:]}; "
                f"allowed: those of the mask, {tuple(self.mask.shape[2:])}"
            )
        return shape

    def __call__(self, x: Tensor) -> Tensor:
        self.measurement_shape(x.shape[1:])
        check_batch(self.name, "masks", len(self.mask), len(x))
        return torch.where(self.mask.to(x.device), x, 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    @torch.no_grad()
    def proximal(self, y: Tensor, x: Tensor, lam: float | Tensor) -> Tensor:
        """(y + lam x) / (1 + lam) where observed, x in the holes."""
        weight = per_image(lam, x)
        return x + self(y - x) / (1 + weight)

    def backproject(self, y: Tensor) -> Tensor:
        """y, with 0 in the holes."""
        return self(y)

    def measure(self, x: Tensor, sigma: float, generators: Sequence[torch.Generator]) -> Tensor:
        """y = m (x + sigma n): holes get no noise."""
        return self(super().measure(x, sigma, generators))

    def observed(self, y: Tensor) -> Tensor:
        """y, with 0 in the holes."""
        return self(y)

    def entries(self, y: Tensor) -> Tensor:
        """Those outside the holes."""
        each = self.mask.flatten(1).sum(1) * y.shape[1]
        return each.to(y.device).expand(len(y))

    def select(self, indices: Sequence[int]) -> LinearOperator:
        return self if len(self.mask) == 1 else replace(self, mask=self.mask[list(indices)])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        return replace(self, mask=self.mask.to(device))


class Inpainting(OperatorSettings):
    """Inpainting. fraction: what share is dropped, which each kind of mask says in its own way."""

    name: Literal["inpainting"] = "inpainting"
    mask: Literal["random", "free_form", "box", "given"] = Field(
        "free_form", description="random, free_form, box, given"
    )
    fraction: float | str | None = Field(None, validate_default=True)

    @property
    def column(self) -> str:
        return f"{self.name} {self.mask}"

    @field_validator("fraction", mode="plain")
    @classmethod
    def _of_its_mask(cls, value: Any, info: ValidationInfo) -> float | str | None:
        if "mask" not in info.data:  # wrong itself, and said so
            return None
        default, allowed, accepts = _FRACTIONS[info.data["mask"]]
        if isinstance(value, str):
            value = f"{value.replace(' ', '').removesuffix('%')}%"
        value = default if value is None else float(value) if type(value) is int else value
        if not accepts(value):
            raise ValueError(f"allowed: {allowed}")
        return value

    @property
    def title(self) -> str:
        return f"{super().title}, {self.mask.replace('_', ' ')}"

    @property
    def needs(self) -> frozenset[Literal["mask", "kernel"]]:
        return frozenset({"mask"}) if self.mask == "given" else frozenset()

    @property
    def instead_of_drawn(self) -> str | None:
        return None if self.mask == "given" else "inpainting {mask: given}, with the mask of each image"

    def make(self, data: Data) -> Masking:
        if self.mask == "given":
            return Masking(data.need("masks"))
        draw = _MASKS[self.mask]
        _, height, width = check_image_shape(self.name, data.need("image_shape"))
        return Masking(data.draw(lambda source: draw(source, height, width, self.fraction)))


def random_mask(source: torch.Generator, height: int, width: int, share: float) -> Tensor:
    """A mask (1, H, W) with `share` of the pixels, to the nearest pixel, dropped at random places."""
    dropped = torch.randperm(height * width, generator=source)[: round(share * height * width)]
    mask = torch.ones(height * width, dtype=torch.bool)
    mask[dropped] = False
    return mask.view(1, height, width)


def box_mask(source: torch.Generator, height: int, width: int, share: float) -> Tensor:
    """A mask (1, H, W) without one box whose sides are `share` of the picture's, at a random place."""
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    top = int(torch.randint(height - tall + 1, (), generator=source))
    left = int(torch.randint(width - wide + 1, (), generator=source))
    mask = torch.ones(1, height, width, dtype=torch.bool)
    mask[:, top : top + tall, left : left + wide] = False
    return mask


_MASKS: dict[str, Callable[..., Tensor]] = {
    "random": random_mask,
    "free_form": free_form_mask,
    "box": box_mask,
}
# By kind of mask: the default, what is allowed, and whether a value is.
_FRACTIONS: dict[str, tuple[float | str | None, str, Callable[[Any], bool]]] = {
    "random": (
        0.8,
        "the share of pixels dropped, from 0 to below 1",
        lambda value: type(value) is float and 0 <= value < 1,
    ),
    "free_form": (
        "10-20%",
        f"a class of dropped share: {', '.join(CLASSES)}",
        lambda value: isinstance(value, str) and value in CLASSES,
    ),
    "box": (
        0.5,
        "the box's share of each side, above 0 and below 1",
        lambda value: type(value) is float and 0 < value < 1,
    ),
    "given": (None, "nothing: the given masks say what is dropped", lambda value: value is None),
}


def _check_mask(mask: Tensor) -> Tensor:
    if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
        raise ValueError(f"masks: got shape {tuple(mask.shape)}; allowed: (images, 1, height, width)")
    wrong = mask[(mask != 0) & (mask != 1)]
    if wrong.numel():
        raise ValueError(
            f"masks: got {wrong.numel()} values such as {wrong[0].item()}; allowed: 1 where observed "
            "and 0 where dropped"
        )
    return mask.bool()
