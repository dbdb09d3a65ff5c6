"""A latent prior for images larger than its own: the noise of a latent predicted in patches.

As in MultiDiffusion (Bar-Tal et al., 2023; uniform weights) and Mixture of Diffusers (Jimenez, 2023;
Gaussian), the predictions are averaged where windows overlap, so that a solver steps on the whole latent.
"""

from functools import cached_property
from itertools import product
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from p2l_engine.priors.base import canvas
from p2l_engine.settings import Settings

TOGETHER = 4  # windows that go through the network at a time


class Patches(Settings):
    """size, stride: of the square windows, in latent cells; null: the model's own size, and half of `size`.

    variance: of Gaussian weights, in units of the square of `size`.
    """

    size: int | None = Field(default=None, ge=2)
    stride: int | None = Field(default=None, ge=1)
    weights: Literal["uniform", "gaussian"] = "gaussian"
    variance: float = Field(default=0.01, ge=1e-3)

    def side(self, model: Any) -> int:
        """The side of a window for a prior or an architecture."""
        return self.size or model.native_size // model.factor

    def misfits(self, model: Any) -> list[str]:
        """What keeps a prior, or an architecture, from taking such windows."""
        multiple, side = model.image_multiple // model.factor, self.side(model)
        found = []
        if side % multiple:
            found.append(
                f"patches.size: got {side}; allowed: multiples of {multiple}, which the U-Net halves"
            )
        if self.stride is not None and self.stride > side:
            found.append(f"patches.stride: got {self.stride}; allowed: 1 to {side}, the size of a patch")
        return found

    def doubts(self, steps: int) -> list[str]:
        """What of the settings does nothing."""
        if self.weights == "gaussian" or self.variance == type(self).model_fields["variance"].default:
            return []
        return [f"variance is {self.variance}, but weights are uniform"]

    def too_small(self, model: Any, size: tuple[int, int]) -> list[str]:
        """Why images (height, width) in pixels have no room for a window; on the canvas that they get."""
        side = self.side(model)
        cells = [length // model.factor for length in canvas(size, model.image_multiple)]
        if min(cells) >= side:
            return []
        return [
            f"patches.size: got {side} for latents of {cells[0]}x{cells[1]}; allowed: at most {min(cells)}, "
            "or patches: null, for images of the model's own size and below"
        ]


class Patched:
    """A latent prior with `predict_noise` in patches, batched; in all else the prior itself.

    Each window is an evaluation: four a step for latents of 96x96 with windows of 64 and a stride of 32.
    """

    def __init__(self, prior: Any, patches: Patches) -> None:
        self._prior, self._patches = prior, patches
        self._known: dict[Any, Tensor] = {}  # shares, by the latent's size, device and dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def predict_noise(self, z: Tensor, t: int, C: Tensor) -> Tensor:
        """The noise in z (B, C, h, w); differentiable in z and C (B, L, D)."""
        side = self._patches.side(self._prior)
        height, width = z.shape[-2:]
        corners = windows(height, width, side, self._patches.stride or -(-side // 2))
        key = height, width, z.device, z.dtype
        if key not in self._known:  # a copy would wait for a GPU at every step
            self._known[key] = self._shares(corners, height, width).to(z)
        shares = self._known[key]
        noise = torch.zeros_like(z)
        for first in range(0, len(corners), TOGETHER):
            some = corners[first : first + TOGETHER]
            cut = torch.cat([z[..., top : top + side, left : left + side] for top, left in some])
            predicted = self._prior.predict_noise(cut, t, C.repeat(len(some), 1, 1)).chunk(len(some))
            for (top, left), share, eps in zip(some, shares[first:], predicted, strict=False):
                around = (left, width - left - side, top, height - top - side)
                noise = noise + F.pad(share * eps, around)
        return noise

    def _shares(self, corners: list[tuple[int, int]], height: int, width: int) -> Tensor:
        """What each window counts at each of its cells (windows, side, side): 1 in all at every cell."""
        kernel, side = self._kernel, len(self._kernel)
        total = kernel.new_zeros(height, width)
        for top, left in corners:
            total[top : top + side, left : left + side] += kernel
        return torch.stack([kernel / total[top : top + side, left : left + side] for top, left in corners])

    @cached_property
    def _kernel(self) -> Tensor:
        """The weights of a window (side, side), float64: those of float16 would be 0 in its corners."""
        side = self._patches.side(self._prior)
        if self._patches.weights == "uniform":
            return torch.ones(side, side, dtype=torch.float64)
        offset = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) / side
        line = torch.exp(-offset.square() / (2 * self._patches.variance))
        return line[:, None] * line


def windows(height: int, width: int, side: int, stride: int) -> list[tuple[int, int]]:
    """The upper left corners of windows that cover (height, width), the last flush with the border."""
    rows, columns = ([*range(0, length - side, stride), length - side] for length in (height, width))
    return list(product(rows, columns))
