"""Any linear function one writes: the adjoint by autodiff (App. E), the proximal by conjugate gradients."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from p2l_engine.operators.base import ImageShape, LinearOperator, Shape, check_image_shape
from p2l_engine.operators.settings import Data, OperatorSettings

ImageFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Function(LinearOperator):
    """A x = function(x) for images of one shape; made and checked by `linear`."""

    function: ImageFunction
    shape: ImageShape  # of x
    measured: Shape  # of y
    name: str = "linear"

    def measurement_shape(self, image_shape: Shape) -> Shape:
        if tuple(image_shape) != self.shape:
            raise ValueError(
                f"{self.name}: got an image of shape {tuple(image_shape)}; allowed: {self.shape}"
            )
        return self.measured

    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        if tuple(measurement_shape) != self.measured:
            raise ValueError(
                f"{self.name}: got a measurement of shape {tuple(measurement_shape)}; "
                f"allowed: {self.measured}"
            )
        return self.shape

    def __call__(self, x: Tensor) -> Tensor:
        self.measurement_shape(x.shape[1:])
        return self.function(x)


@torch.inference_mode(False)  # the function is differentiated
def linear(function: ImageFunction, image_shape: Shape) -> LinearOperator:
    """The operator of a function from images (B, 3, H, W) to (B, ...), written in differentiable torch code.

    image_shape: (3, H, W). The function must take any batch, float32 and float64, and follow its argument's
    dtype and device. Once, on random float32 images, it is checked that the function is linear, maps every
    image of a batch on its own, and can be differentiated. ValueError says which of these fails.
    """
    shape = check_image_shape("linear", image_shape)
    source = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, *shape, generator=source, dtype=torch.float32)
    try:
        mapped = function(torch.cat([torch.zeros_like(a), a, b, a - 3 * b]))
    except Exception as error:  # a function of the user's may fail in any way
        raise ValueError(
            f"linear: the function failed ({type(error).__name__}: {error}) on 4 random images {shape}, "
            "float32 on the CPU; allowed: functions of any batch that follow its dtype and device"
        ) from error
    if not isinstance(mapped, Tensor) or mapped.ndim < 2 or len(mapped) != 4:
        got = tuple(mapped.shape) if isinstance(mapped, Tensor) else type(mapped).__name__
        raise ValueError(
            f"linear: the function made {got} of a batch of 4 images; allowed: a tensor (4, ...)"
        )
    zero, of_a, of_b, of_both = mapped.detach()
    if not bool(mapped.isfinite().all()):
        raise ValueError("linear: the function made infinity or NaN of finite images; allowed: finite values")
    if bool(zero.any()):
        raise ValueError(f"linear: A(0) reached {zero.abs().max():.3g}; allowed: 0; leave constant terms out")
    if not _close(of_both, of_a - 3 * of_b):
        raise ValueError("linear: A(a - 3 b) is not A(a) - 3 A(b) for random a, b; allowed: linear functions")
    if not _close(function(a)[0].detach(), of_a):
        raise ValueError(
            "linear: an image's measurement changes with its neighbours in the batch; allowed: "
            "functions that map each image on its own"
        )
    operator = Function(function, shape, tuple(mapped.shape[1:]))
    try:
        back = operator.adjoint(of_a[None])
    except RuntimeError as error:
        raise ValueError(
            f"linear: the function cannot be differentiated ({error}); allowed: torch operations "
            "that keep the gradient (no .detach(), no NumPy)"
        ) from error
    if not _close((back * b).sum(), (of_a * of_b).sum(), scale=of_a.norm() * of_b.norm()):
        raise ValueError(
            "linear: the function's gradient is not its adjoint; allowed: torch operations that "
            "keep the whole gradient (no .detach(), no rounding)"
        )
    return operator


def resolve_function(path: str) -> ImageFunction:
    """The function named "package.module:function". ValueError where there is none."""
    module_name, _, attribute = path.partition(":")
    if not (module_name and attribute):
        raise ValueError(f"function: got {path!r}; allowed: package.module:function")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module of the user's may fail in any way while it is imported
        raise ValueError(
            f"function: got {path!r}, but importing it failed ({type(error).__name__}: {error}); "
            "allowed: an installed module, or one on PYTHONPATH"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        missing = "is not callable" if hasattr(module, attribute) else "is not there"
        raise ValueError(
            f"function: got {path!r}, but {attribute!r} {missing} in {module.__file__}; "
            "allowed: the name of a function of that module"
        )
    return function


class Linear(OperatorSettings):
    """A function of the user's own."""

    name: Literal["linear"] = "linear"
    function: str = Field(
        description="package.module:function, a linear function of images (B, 3, H, W)", strict=True
    )

    @field_validator("function")
    @classmethod
    def _in_a_module(cls, value: str) -> str:
        if not all(value.partition(":")):
            raise ValueError
        return value

    def check(self) -> list[str]:
        try:
            resolve_function(self.function)
        except ValueError as error:
            return [str(error)]
        return []

    def make(self, data: Data) -> LinearOperator:
        # Where y alone is known, images and measurements are of one size.
        shape = data.image_shape or data.measurement_shape or data.need("image_shape")
        return linear(resolve_function(self.function), shape)


def _close(got: Tensor, expected: Tensor, scale: Tensor | None = None) -> bool:
    """Equal to within float32 rounding of the scale (by default the largest expected value)."""
    reference = expected.abs().max() if scale is None else scale
    return bool((got - expected).abs().max() <= 1e-4 * reference)
