"""How hard drawn motion kernels are: ``python -m jobs.benchmark motion``.

Three figures tell one set of kernels from another: how far the light goes, how much of the spectrum is as
good as lost, and what is left after the best linear restoration that knows kernel and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from skimage.transform import resize
from torch import Tensor

from p2l_engine.operators.motion import motion_kernel
from p2l_engine.tiny.collection import held_out_photographs

SIDE = 256  # pixels of the photographs that are blurred
LOST = 0.05  # a frequency that a kernel scales to less counts as lost
SIGMA = 0.01  # of the noise, on the [-1, 1] range
WEIGHTS = torch.logspace(-4, 0, 17, dtype=torch.float64)  # of the Wiener filter; the best is taken


class Hardness(NamedTuple):
    """Of a set of kernels; `restored` has a standard error over the kernels."""

    extent: float  # median root mean square distance, in pixels, of the light from its centroid
    lost: float  # mean share of frequencies that are scaled to less than LOST
    restored: float  # mean PSNR in dB of the best Wiener restoration
    error: float  # of `restored`


def run(kernels: int, size: int, intensities: Sequence[float]) -> str:
    """Markdown: a row an intensity, for `kernels` kernels (2 or more) drawn from seeds 0, 1, ..."""
    lines = ["| intensity | extent, pixels | lost frequencies | best Wiener, dB |", "|---|---|---|---|"]
    for intensity in intensities:
        found = hardness(draw(kernels, size, intensity))
        restored = f"{found.restored:.1f} ± {found.error:.1f}"
        lines.append(f"| {intensity:g} | {found.extent:.1f} | {found.lost:.0%} | {restored} |")
    return "\n".join(lines)


def draw(count: int, size: int, intensity: float) -> Tensor:
    """Kernels (count, size, size), float64, of the seeds 0, 1, ..."""
    sources = (torch.Generator().manual_seed(seed) for seed in range(count))
    return torch.cat([motion_kernel(source, size, intensity) for source in sources])


def hardness(kernels: Tensor) -> Hardness:
    """The figures of kernels (N, k, k), N at least 2, each of sum 1."""
    response = torch.fft.fft2(kernels, s=(SIDE, SIDE))
    restored = _best_wiener(response)
    return Hardness(
        float(_extents(kernels).median()),
        float((response.abs() < LOST).double().mean()),
        float(restored.mean()),
        float(restored.std() / len(restored) ** 0.5),
    )


def _extents(kernels: Tensor) -> Tensor:
    grid = torch.arange(kernels.shape[1], dtype=kernels.dtype)
    variance = torch.zeros(len(kernels), dtype=kernels.dtype)
    for along in (kernels.sum(1), kernels.sum(2)):
        variance += (along * grid.square()).sum(1) - (along * grid).sum(1).square()
    return variance.sqrt()


def _best_wiener(response: Tensor) -> Tensor:
    """PSNR (N,) of photographs, in turn, blurred circularly with noise and restored with the best weight."""
    photographs = _photographs()
    source = torch.Generator().manual_seed(0)
    return torch.stack(
        [
            _restored(photographs[i % len(photographs)], one, source)  # one at a time: they take much memory
            for i, one in enumerate(response)
        ]
    )


def _restored(x: Tensor, response: Tensor, source: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=source, dtype=torch.float64)
    half = response[:, : SIDE // 2 + 1]  # what a real picture needs of it
    y = half * torch.fft.rfft2(x) + torch.fft.rfft2(SIGMA * noise)
    filters = half.conj() / (half.abs().square() + WEIGHTS[:, None, None])
    errors = (torch.fft.irfft2(filters * y, s=x.shape).clamp(-1, 1) - x).square().mean((1, 2))
    return 10 * torch.log10(4 / errors.min())


def _photographs() -> Tensor:
    """Grey photographs (N, SIDE, SIDE) in [-1, 1]: the middle squares of those that training never saw."""
    squares = []
    for picture, _ in held_out_photographs("test").values():
        side = min(picture.shape[:2])
        top, left = ((length - side) // 2 for length in picture.shape[:2])
        square = picture[top : top + side, left : left + side]
        squares.append(torch.from_numpy(resize(square, (SIDE, SIDE), anti_aliasing=True).mean(2)))
    return torch.stack(squares).double() * 2 - 1
