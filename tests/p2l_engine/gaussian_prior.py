"""A diffusion model whose images are Gaussian: all that a solver approximates has a closed form there.

| symbol | here |
|---|---|
| x_0 ~ N(m, C) | `Gaussian` |
| x_t = sqrt(a) x_0 + sqrt(1 - a) n | `Gaussian.noised(a)` |
| E[x_0 | x_t] | `Gaussian.denoised(x_t, a)`, of covariance `Gaussian.uncertainty(a)` |
| x_0 | y = A x_0 + n | `Gaussian.given(A, y, sigma)` |

All in float64. Vectors are rows: (B, d) of images (B, 3, H, W) flattened, d = 3 H W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from p2l_engine.operators.base import LinearOperator
from p2l_engine.schedule import ForwardProcess, Schedule, make_schedule, read_forward_process

LINEAR_BETAS = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
}


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance). mean: (d,), or (B, d) of distributions that differ in it. covariance: (d, d)."""

    mean: Tensor
    covariance: Tensor

    @staticmethod
    def random(d: int, seed: int = 0, least: float = 0.02) -> Gaussian:
        """A mean within [-0.3, 0.3] and a full covariance, no direction of a variance below `least`."""
        source = torch.Generator().manual_seed(seed)
        root = torch.randn(d, d, generator=source, dtype=torch.float64) / d**0.5
        mean = 0.6 * torch.rand(d, generator=source, dtype=torch.float64) - 0.3
        return Gaussian(mean, 0.1 * root @ root.T + least * torch.eye(d, dtype=torch.float64))

    @staticmethod
    def white(d: int, mean: float = 0.0, variance: float = 1.0) -> Gaussian:
        """Independent entries, alike."""
        eye = torch.eye(d, dtype=torch.float64)
        return Gaussian(torch.full((d,), mean, dtype=torch.float64), variance * eye)

    def noised(self, a: float) -> Gaussian:
        """Of x_t where alpha_bar is a."""
        return Gaussian(a**0.5 * self.mean, a * self.covariance + (1 - a) * _eye(self.covariance))

    def score(self, x: Tensor) -> Tensor:
        """The gradient of the log-density at x (B, d)."""
        return -torch.linalg.solve(self.covariance, (x - self.mean).T).T

    def denoised(self, x_t: Tensor, a: float) -> Tensor:
        """E[x_0 | x_t] (B, d), by Tweedie's formula."""
        return (x_t + (1 - a) * self.noised(a).score(x_t)) / a**0.5

    def uncertainty(self, a: float) -> Tensor:
        """The covariance (d, d) of x_0 given x_t."""
        if a == 1:
            return torch.zeros_like(self.covariance)
        return torch.linalg.inv(torch.linalg.inv(self.covariance) + a / (1 - a) * _eye(self.covariance))

    def given(self, A: Tensor, y: Tensor, sigma: float) -> Gaussian:
        """The posterior of x_0 under y (B, m) = A x_0 + n; A: (m, d), n of standard deviation sigma > 0."""
        gain = self.covariance @ A.T @ torch.linalg.inv(A @ self.covariance @ A.T + sigma**2 * _eye(A @ A.T))
        mean = self.mean + (y - self.mean @ A.T) @ gain.T
        return Gaussian(mean, self.covariance - gain @ A @ self.covariance)

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """`count` vectors (count, d)."""
        source = torch.Generator().manual_seed(seed)
        white = torch.randn(count, len(self.covariance), generator=source, dtype=torch.float64)
        return self.mean + white @ torch.linalg.cholesky(self.covariance).T


@dataclass
class GaussianPixels:
    """A pixel prior over Gaussian images of one shape, whose network is exact. steps of 1000 timesteps."""

    gaussian: Gaussian
    shape: tuple[int, int, int]
    scheduler: dict[str, object] = field(default_factory=lambda: dict(LINEAR_BETAS))
    evaluations: int = 0
    classes: int | None = None
    kind: ClassVar[Literal["pixel"]] = "pixel"
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float64
    image_multiple: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self.process = read_forward_process(self.scheduler)
        self.native_size = self.shape[1]

    def schedule(self, steps: int) -> Schedule:
        return make_schedule(self.process, steps)

    def predict_noise(self, x: Tensor, t: int, label: int | None = None) -> Tensor:
        self.evaluations += len(x)
        return exact_noise(self.gaussian, x, self.process.alphas_cumprod[t].item())


@dataclass
class GaussianLatents:
    """A latent prior over Gaussian latents, of half the side, whose network is exact and reads no text.

    The auto-encoder is linear and orthonormal: a latent is spread evenly over its 2x2 pixels.
    """

    gaussian: Gaussian
    evaluations: int = 0
    kind: ClassVar[Literal["latent"]] = "latent"
    device: ClassVar[torch.device] = torch.device("cpu")
    dtype: ClassVar[torch.dtype] = torch.float64
    factor: ClassVar[int] = 2
    image_multiple: ClassVar[int] = 2
    native_size: ClassVar[int] = 8
    latent_channels: ClassVar[int] = 3
    text_width: ClassVar[int] = 2
    embedding_shape: ClassVar[tuple[int, int]] = (1, 2)
    process: ClassVar[ForwardProcess] = read_forward_process(LINEAR_BETAS)

    def schedule(self, steps: int) -> Schedule:
        return make_schedule(self.process, steps)

    def encode(self, x: Tensor) -> Tensor:
        return 2 * F.avg_pool2d(x, 2)

    def decode(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1) / 2

    def sketch(self, z: Tensor) -> Tensor:
        return self.decode(z)

    def predict_noise(self, z: Tensor, t: int, C: Tensor) -> Tensor:
        self.evaluations += len(z)
        return exact_noise(self.gaussian, z, self.process.alphas_cumprod[t].item())

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), *self.embedding_shape, dtype=torch.float64)


def exact_noise(gaussian: Gaussian, x: Tensor, a: float) -> Tensor:
    """E[n | x_t] of images or latents x (B, ...); differentiable."""
    return (-((1 - a) ** 0.5) * gaussian.noised(a).score(x.flatten(1))).view_as(x)


def matrix(A: LinearOperator, shape: Sequence[int]) -> Tensor:
    """The (m, d) matrix of an operator that treats all images of this shape alike."""
    basis = torch.eye(int(torch.tensor(shape).prod()), dtype=torch.float64)
    return A(basis.view(-1, *shape)).flatten(1).T


def _eye(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=torch.float64)
