"""Motion-blur kernels: the trace that a moving camera leaves of a point during one exposure."""

import math

import torch
from torch import Tensor

from p2l_engine.seeding import uniform

SAMPLES = 2048  # instants of the exposure
LENGTHS = (0.35, 0.85)  # of the path, in kernel sides
MOST_JERKS = 4  # sudden turns in one exposure, at intensity 1


def motion_kernel(source: torch.Generator, size: int, intensity: float) -> Tensor:
    """A random kernel (1, size, size), float64, not negative, sum 1, its centroid at the centre.

    intensity in [0, 1]: 0 is a straight line at constant speed; towards 1 the camera wanders, jerks and
    changes its speed more and more.
    """
    path = _trajectory(source, intensity) * uniform(source, *LENGTHS) * size
    path = path - path.mean(0)
    radius = (size - 1) / 2
    path = path * min(1.0, radius / max(float(path.abs().max()), 1e-12))
    return _trace(path + radius, size)[None]


def _trajectory(source: torch.Generator, intensity: float) -> Tensor:
    """Positions (SAMPLES, 2) along a random path of length 1.

    The heading does a random walk of about half a turn over an exposure at intensity 1, with sudden turns of
    up to half a turn; the logarithm of the speed does one of its own.
    """
    walks = torch.randn(2, SAMPLES, generator=source, dtype=torch.float64).cumsum(1) / math.sqrt(SAMPLES)
    jerks = torch.zeros(SAMPLES, dtype=torch.float64)
    for _ in range(MOST_JERKS):
        instant = int(uniform(source, 0, SAMPLES))
        turn = uniform(source, -math.pi, math.pi)
        if uniform(source, 0, 1) < intensity:
            jerks[instant:] += turn
    heading = uniform(source, 0, 2 * math.pi) + intensity * math.pi * walks[0] + jerks
    speed = torch.exp(intensity * walks[1])
    steps = speed[:, None] * torch.stack([heading.sin(), heading.cos()], dim=1)
    return (steps / speed.sum()).cumsum(0)


def _trace(path: Tensor, size: int) -> Tensor:
    """The time spent on each pixel (size, size), sum 1: each instant shared by its four nearest pixels."""
    low = path.floor().clamp(0, size - 2)
    share = path - low
    kernel = torch.zeros(size * size, dtype=path.dtype)
    for down in (0, 1):
        for right in (0, 1):
            weight = (share[:, 0] if down else 1 - share[:, 0]) * (share[:, 1] if right else 1 - share[:, 1])
            place = (low[:, 0] + down) * size + low[:, 1] + right
            kernel.index_add_(0, place.long(), weight)
    return (kernel / kernel.sum()).clamp_min(0).view(size, size)
