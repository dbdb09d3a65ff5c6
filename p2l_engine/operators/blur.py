"""Blur: A convolves with a kernel, by the fast Fourier transform."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional as F

from p2l_engine.operators.base import (
    ImageShape,
    LinearOperator,
    Shape,
    check_batch,
    check_image_shape,
    lasting,
    per_image,
)
from p2l_engine.operators.settings import Data, OperatorSettings


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError
    return value


FAST = 32  # sides that are multiples of it take a half to a third of the time of those just below

Padding = Annotated[Literal["reflect", "circular"], Field(description="reflect, circular")]
KernelSize = Annotated[
    int,
    Field(ge=3, strict=True, description="an odd whole number of at least 3"),
    AfterValidator(_odd),
]


@dataclass(frozen=True, eq=False)
class Blur(LinearOperator):
    """A x = k * x, a true convolution (the kernel is flipped, as in scipy.ndimage.convolve) of each channel.

    kernel: (B, 1, k_h, k_w), odd sides, centred on its middle pixel, not negative, sum 1; one an image, or
    one for all. padding: beyond its edge the picture is mirrored without repeating the edge pixel (reflect),
    or repeats from the other side (circular). ValueError for other kernels, and for a kernel that is too
    large for an image: above 2 H - 1 (reflect) or H (circular) pixels.
    """

    kernel: Tensor
    padding: Padding = "reflect"
    name: str = "blur"
    keeps_range: ClassVar[bool] = True
    _spectra: dict[tuple, Tensor] = field(default_factory=dict, init=False, repr=False)  # by size and dtype

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", lasting(_check_kernel(self.name, self.kernel)))

    def measurement_shape(self, image_shape: Shape) -> Shape:
        return self.image_shape(image_shape)

    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        height, width = self.kernel.shape[2:]
        return check_fits(self.name, measurement_shape, (height, width), self.padding)

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x)
        if self.padding == "circular":
            return self._convolve(x)
        down, right = self._margins
        mirrored = F.pad(x, (right, right, down, down), mode="reflect")
        padded = self._convolve(F.pad(mirrored, _beyond(mirrored)))
        return padded[..., down : down + x.shape[2], right : right + x.shape[3]]

    def adjoint(self, y: Tensor) -> Tensor:
        """Zero-padding, correlation, and the mirrored margins folded back onto the pixels they came from."""
        self._check(y)
        if self.padding == "circular":
            return self._convolve(y, conjugate=True)
        down, right = self._margins
        padded = F.pad(y, (right, right, down, down))
        height, width = padded.shape[2:]
        padded = self._convolve(F.pad(padded, _beyond(padded)), conjugate=True)[..., :height, :width]
        return _fold(_fold(padded, down, dim=2), right, dim=3)

    @torch.no_grad()
    def proximal(self, y: Tensor, x: Tensor, lam: float | Tensor) -> Tensor:
        """Circular: (conj(K) Y + lam X) / (|K|^2 + lam), Fourier transforms. Reflect: conjugate gradients."""
        if self.padding != "circular":
            return super().proximal(y, x, lam)
        self._check(x)
        spectrum, weight = self._spectrum(x), per_image(lam, x)
        right = spectrum.conj() * torch.fft.rfft2(y) + weight * torch.fft.rfft2(x)
        return torch.fft.irfft2(right / (spectrum.abs() ** 2 + weight), s=x.shape[2:])

    def select(self, indices: Sequence[int]) -> LinearOperator:
        return self if len(self.kernel) == 1 else replace(self, kernel=self.kernel[list(indices)])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        return replace(self, kernel=self.kernel.to(device, dtype))

    def _check(self, images: Tensor) -> None:
        self.image_shape(images.shape[1:])
        check_batch(self.name, "kernels", len(self.kernel), len(images))

    @property
    def _margins(self) -> tuple[int, int]:
        return self.kernel.shape[2] // 2, self.kernel.shape[3] // 2

    def _convolve(self, x: Tensor, conjugate: bool = False) -> Tensor:
        """Circular convolution with the kernel, or, conjugate, with the kernel turned by half a turn."""
        spectrum = self._spectrum(x)
        return torch.fft.irfft2(
            torch.fft.rfft2(x) * (spectrum.conj() if conjugate else spectrum), s=x.shape[2:]
        )

    def _spectrum(self, x: Tensor) -> Tensor:
        """The Fourier transform of the kernel, its middle pixel at the origin, on the grid of x."""
        height, width = x.shape[2:]
        key = (height, width, x.dtype, x.device)
        if key not in self._spectra:
            rows, columns = self.kernel.shape[2:]
            with torch.inference_mode(False):  # what is kept must serve gradients later
                grid = F.pad(self.kernel.to(x), (0, width - columns, 0, height - rows))
                grid = grid.roll((-(rows // 2), -(columns // 2)), dims=(2, 3))
                self._spectra[key] = torch.fft.rfft2(grid)
        return self._spectra[key]


class GivenBlur(OperatorSettings):
    """Blur by the kernel that each image brings along."""

    name: Literal["blur"] = "blur"
    kernel: Literal["given"] = Field("given", description="given")
    padding: Padding = "reflect"

    @property
    def needs(self) -> frozenset[Literal["mask", "kernel"]]:
        return frozenset({"kernel"})

    def make(self, data: Data) -> Blur:
        return Blur(data.need("kernels"), self.padding)


def check_fits(name: str, shape: Shape, sides: tuple[int, int], padding: Padding) -> ImageShape:
    """The shape of an image that is not too small for a kernel of those sides. ValueError for others."""
    found = check_image_shape(name, shape)
    needed = tuple(side // 2 + 1 for side in sides) if padding == "reflect" else sides
    if found[1] < needed[0] or found[2] < needed[1]:
        raise ValueError(
            f"{name}: got an image of height and width {found[1:]} for a kernel of {sides} with "
            f"{padding} padding; allowed: at least {needed}; take a smaller kernel"
        )
    return found


def _beyond(x: Tensor) -> tuple[int, int, int, int]:
    """Zeros after the last row and column up to sides that are quickly transformed; for F.pad."""
    height, width = x.shape[2:]
    return 0, -width % FAST, 0, -height % FAST


def _fold(padded: Tensor, margin: int, dim: int) -> Tensor:
    """The adjoint of padding dimension `dim` by reflection."""
    size = padded.shape[dim] - 2 * margin
    before, inside, after = padded.split([margin, size, margin], dim)
    mirrored = torch.zeros_like(inside)
    mirrored.narrow(dim, 1, margin).add_(before.flip(dim))
    mirrored.narrow(dim, size - 1 - margin, margin).add_(after.flip(dim))
    return inside + mirrored


def _check_kernel(name: str, kernel: Tensor) -> Tensor:
    """The kernel, its sum exactly 1 to its precision; ValueError for what is no blur kernel."""
    allowed = "(images, 1, height, width) with odd height and width"
    if kernel.ndim != 4 or kernel.shape[1] != 1 or not all(side % 2 for side in kernel.shape[2:]):
        raise ValueError(f"{name}: got kernels of shape {tuple(kernel.shape)}; allowed: {allowed}")
    if len(kernel) == 0 or not kernel.is_floating_point():
        raise ValueError(
            f"{name}: got {len(kernel)} kernels of {kernel.dtype}; allowed: at least 1, floating point"
        )
    if not bool((kernel.isfinite() & (kernel >= 0)).all()):
        raise ValueError(
            f"{name}: got a kernel with negative, infinite or NaN values; allowed: finite, at least 0"
        )
    sums = kernel.sum(dim=(1, 2, 3), keepdim=True)
    if bool(((sums - 1).abs() > 1e-3).any()):
        far = sums.flatten()[(sums.flatten() - 1).abs().argmax()]
        raise ValueError(
            f"{name}: got a kernel whose sum is {far:.6g}; allowed: 1 to within 0.001; divide it by its sum"
        )
    return (kernel / sums).detach()
