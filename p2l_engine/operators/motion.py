"""Motion-blur kernels: the trace that a moving camera leaves of a point during one exposure.

The constants bring extent, lost frequencies and difficulty at intensity 0.5 to those of the kernels that the
literature of deblurring uses; `python -m jobs.benchmark motion` measures them.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.operators.blur import Blur, KernelSize, Padding
from p2l_engine.operators.settings import Data, OperatorSettings
from p2l_engine.seeding import uniform

SAMPLES = 2048  # instants of the exposure
LENGTHS = (0.15, 1.1)  # of the path, in kernel sides
# At intensity 1:
WANDER = 1.0  # standard deviation of the heading at the end of an exposure, in radians
JERKS, JERK = 2, 1.0  # sudden turns in one exposure, and the most that one turns, in radians
HASTE = 0.5  # standard deviation of the logarithm of the speed at the end of an exposure
SPOT = 0.7  # side in pixels of the square whose corners are the image of a point at rest


class MotionBlur(OperatorSettings):
    """Blur by a random movement of the camera, one for each image."""

    name: Literal["motion_blur"] = "motion_blur"
    size: KernelSize = 61
    intensity: float = Field(0.5, ge=0, le=1, strict=True, description="a number from 0 to 1")
    padding: Padding = "reflect"

    @property
    def instead_of_drawn(self) -> str:
        return "blur, with the kernel of each image"

    def make(self, data: Data) -> Blur:
        kernels = data.draw(lambda source: motion_kernel(source, self.size, self.intensity))
        return Blur(kernels, self.padding, name=self.name)


def motion_kernel(source: torch.Generator, size: int, intensity: float) -> Tensor:
    """A random kernel (1, size, size), float64, not negative, sum 1, its centroid at the centre.

    intensity in [0, 1]: 0 is a straight line at constant speed; towards 1 the camera wanders, jerks and
    changes its speed more and more.
    """
    path = _trajectory(source, intensity) * uniform(source, *LENGTHS) * size
    path = path - path.mean(0)
    radius = (size - 1 - SPOT) / 2
    path = path * min(1.0, radius / max(float(path.abs().max()), 1e-12))
    return _trace(path + (size - 1) / 2, size)[None]


def _trajectory(source: torch.Generator, intensity: float) -> Tensor:
    """Positions (SAMPLES, 2) along a random path of length 1: heading and log-speed do random walks."""
    walks = torch.randn(2, SAMPLES, generator=source, dtype=torch.float64).cumsum(1) / math.sqrt(SAMPLES)
    jerks = torch.zeros(SAMPLES, dtype=torch.float64)
    for _ in range(JERKS):
        instant = int(uniform(source, 0, SAMPLES))
        turn = uniform(source, -JERK, JERK)
        if uniform(source, 0, 1) < intensity:
            jerks[instant:] += turn
    heading = uniform(source, 0, 2 * math.pi) + intensity * WANDER * walks[0] + jerks
    speed = torch.exp(intensity * HASTE * walks[1])
    steps = speed[:, None] * torch.stack([heading.sin(), heading.cos()], dim=1)
    return (steps / speed.sum()).cumsum(0)


def _trace(path: Tensor, size: int) -> Tensor:
    """The light on each pixel (size, size), sum 1: each corner of the spot shared by its four pixels."""
    corners = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=path.dtype) * SPOT / 2
    points = (path[:, None] + corners).flatten(0, 1)
    low = points.floor().clamp(0, size - 2)
    share = points - low
    kernel = torch.zeros(size * size, dtype=path.dtype)
    for down in (0, 1):
        for right in (0, 1):
            weight = (share[:, 0] if down else 1 - share[:, 0]) * (share[:, 1] if right else 1 - share[:, 1])
            place = (low[:, 0] + down) * size + low[:, 1] + right
            kernel.index_add_(0, place.long(), weight)
    return (kernel / kernel.sum()).clamp_min(0).view(size, size)
