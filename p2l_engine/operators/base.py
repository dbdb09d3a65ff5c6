"""The contract of a linear operator A of y = A x + n (Eq. 3): what every family gives, and the defaults."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from p2l_engine.operators.conjugate_gradients import MAX_ITERATIONS, Solution, conjugate_gradients

ImageShape = tuple[int, int, int]  # (channels, height, width) of one image
Shape = tuple[int, ...]


def is_deviation(sigma: object) -> bool:
    """Whether it is a finite number of at least 0."""
    return isinstance(sigma, int | float) and not isinstance(sigma, bool) and 0 <= sigma < math.inf


class LinearOperator(ABC):
    """A linear map from images x (B, 3, H, W) to measurements y (B, *measurement).

    Float32 or float64, any device; differentiable in x. Every image is treated on its own: an operator that
    holds a mask or kernel for each image maps the i-th image with the i-th of them.

    A family writes the two shapes and `__call__`; the rest follows from them, and is overridden where a
    closed form is cheaper or more exact. Wrong shapes of what A or A^T is applied to raise ValueError.
    """

    name: str
    keeps_range: ClassVar[bool] = False  # whether A x is in [-1, 1], entry by entry, when x is

    @abstractmethod
    def measurement_shape(self, image_shape: Shape) -> Shape:
        """The shape of y for one image of shape (3, H, W). ValueError where A cannot apply to that shape."""

    @abstractmethod
    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        """The shape (3, H, W) of x for one measurement. ValueError where A yields no such measurement."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x: (B, 3, H, W) -> (B, *measurement)."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: (B, *measurement) -> (B, 3, H, W), by reverse-mode differentiation (App. E, Fig. 4).

        Differentiable in y where y requires a gradient; otherwise the result carries no graph.
        """
        differentiable = torch.is_grad_enabled() and y.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            x = y.new_zeros(len(y), *self.image_shape(y.shape[1:])).requires_grad_()
            (back,) = torch.autograd.grad(self(x), x, y, create_graph=differentiable)
        return back

    @torch.no_grad()
    def proximal(self, y: Tensor, x: Tensor, lam: float | Tensor) -> Tensor:
        """argmin_u |y - A u|^2 + lam |u - x|^2 (Eq. 19), lam > 0, one number or (B,).

        Solves (A^T A + lam) u = A^T y + lam x by conjugate gradients from x, to the tolerance of
        `conjugate_gradients`, and warns where an image did not reach it. The result carries no graph, for
        every operator.
        """
        solution = self._normal_equations(y, x, lam, MAX_ITERATIONS)
        if (short := solution.residual[~solution.converged & solution.residual.isfinite()]).numel():
            warnings.warn(
                f"{self.name}: conjugate gradients stopped at a relative residual of {short.max():.1e} in "
                f"{short.numel()} of {len(x)} images; a larger weight (lam) converges faster",
                stacklevel=3,
            )
        return solution.values

    @torch.no_grad()
    def proximal_early(self, y: Tensor, x: Tensor, lam: float | Tensor, iterations: int) -> Tensor:
        """So many iterations of conjugate gradients from x toward `proximal`, for every operator.

        To stop early is a regularisation of its own: directions in which A is weak stay near x.
        """
        return self._normal_equations(y, x, lam, iterations).values

    def _normal_equations(self, y: Tensor, x: Tensor, lam: float | Tensor, iterations: int) -> Solution:
        """(A^T A + lam) u = A^T y + lam x, by at most so many iterations from x."""
        weight = per_image(lam, x)
        right = self.adjoint(y) + weight * x
        return conjugate_gradients(
            lambda u: self.adjoint(self(u)) + weight * u, right, start=x, max_iterations=iterations
        )

    def glue(self, y: Tensor, x: Tensor) -> Tensor:
        """x + A^T (y - A x), the gluing of Table 4: (I - A^T A) x + A^T y.

        A family whose A A^T is a multiple of I takes the pseudo-inverse for A^T, which makes it the
        projection onto {u: A u = y} that the formula means. Differentiable in x and y.
        """
        return x + self.adjoint(y - self(x))

    def backproject(self, y: Tensor) -> Tensor:
        """A^T y / (A^T A 1) where that divisor is not 0, else 0: y brought to the shape of an image."""
        ones = torch.ones(len(y), *self.image_shape(y.shape[1:]), dtype=y.dtype, device=y.device)
        weight = self.adjoint(self(ones))
        reached = weight.abs() > 1e-6 * weight.abs().amax(dim=(1, 2, 3), keepdim=True)
        return torch.where(reached, self.adjoint(y) / torch.where(reached, weight, 1), 0)

    def measure(self, x: Tensor, sigma: float, generators: Sequence[torch.Generator]) -> Tensor:
        """y = A x + sigma n (Eq. 3): sigma in units of the [-1, 1] range, 0 for no noise.

        n is drawn in float32 on the CPU from each image's own generator: the same on every device, in every
        batch. ValueError for a negative or infinite sigma, or another number of generators than images.
        """
        if not is_deviation(sigma):
            raise ValueError(f"noise sigma: got {sigma!r}; allowed: a finite number of at least 0")
        if not isinstance(generators, Sequence) or len(generators) != len(x):
            got = len(generators) if isinstance(generators, Sequence) else type(generators).__name__
            raise ValueError(f"generators: got {got} for {len(x)} images; allowed: a list of one an image")
        y = self(x)
        noise = torch.stack(
            [torch.randn(y.shape[1:], generator=source, dtype=torch.float32) for source in generators]
        )
        return y + sigma * noise.to(y)

    def observed(self, y: Tensor) -> Tensor:
        """y (B, *measurement) as A can have made it: 0 where it measures nothing."""
        return y

    def entries(self, y: Tensor) -> Tensor:
        """How many entries of each y (B, *measurement) hold something measured: (B,) int64."""
        return torch.full((len(y),), y[0].numel(), device=y.device)

    def unknowns(self, measurement_shape: Shape) -> int:
        """How many numbers of x are asked for: 3 H W of the picture."""
        return math.prod(self.image_shape(measurement_shape))

    def select(self, indices: Sequence[int]) -> "LinearOperator":
        """The operator of those images of the batch only, in that order."""
        return self

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """The operator with its masks or kernels on a device (and kernels in a dtype)."""
        return self


def lasting(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where it was made in inference mode, whose tensors no gradient can pass by."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def per_image(lam: float | Tensor, x: Tensor) -> Tensor:
    """lam, one number or (B,), as (B or 1, 1, 1, 1) beside images x. ValueError unless finite and above 0."""
    weight = torch.as_tensor(lam, dtype=x.dtype, device=x.device)
    if weight.ndim > 1 or (weight.ndim == 1 and len(weight) != len(x)):
        raise ValueError(f"lam: got shape {tuple(weight.shape)}; allowed: one number, or ({len(x)},)")
    if not bool((weight.isfinite() & (weight > 0)).all()):
        raise ValueError(f"lam: got {lam}; allowed: finite numbers above 0")
    return weight.view(-1, 1, 1, 1)


def check_image_shape(name: str, shape: Shape) -> ImageShape:
    """The shape itself if it is (channels, height, width), none of them 0; else ValueError."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{name}: got an image of shape {tuple(shape)}; allowed: (channels, height, width)")
    return shape[0], shape[1], shape[2]


def check_batch(name: str, what: str, held: int, images: int) -> None:
    """ValueError unless `held` masks or kernels serve a batch of `images`: one each, or one for all."""
    if held not in (1, images):
        raise ValueError(
            f"{name}: got {images} images for {held} {what}; allowed: {held} images, or 1 {what[:-1]}"
        )
