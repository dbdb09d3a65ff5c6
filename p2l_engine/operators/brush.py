"""Free-form masks: random strokes of a round brush, by classes of the share that they cover."""

import math

import torch
from torch import Tensor

from p2l_engine.seeding import uniform

# Share of the picture dropped, as in the literature of free-form inpainting.
CLASSES = {
    "1-10%": (0.01, 0.1),
    "10-20%": (0.1, 0.2),
    "20-30%": (0.2, 0.3),
    "30-40%": (0.3, 0.4),
    "40-50%": (0.4, 0.5),
    "50-60%": (0.5, 0.6),
}
RADII = (0.02, 0.06)  # of the brush, in shorter sides of the picture
LENGTHS = (0.05, 0.25)  # of a stroke's segment, in shorter sides
SEGMENTS = (4, 12)  # of a stroke
TURNS = (0.2, 2.2)  # between two segments, in radians, alternately left and right: brushes go to and fro


def free_form_mask(source: torch.Generator, height: int, width: int, coverage: str) -> Tensor:
    """A bool mask (1, H, W), False where brushed, whose dropped share lies strictly inside the class.

    The share is drawn uniformly in the class; then strokes are painted until it is reached, the last one
    stopping midway. ValueError for an unknown class, or a picture with too few pixels for it.
    """
    if coverage not in CLASSES:
        raise ValueError(f"free-form class: got {coverage!r}; allowed: {', '.join(CLASSES)}")
    low, high = (share * height * width for share in CLASSES[coverage])
    fewest, most = math.floor(low) + 1, math.ceil(high) - 1
    if fewest > most:
        raise ValueError(
            f"free-form class {coverage}: got a picture of {height}x{width}; allowed: one with enough pixels "
            "to drop that share of them"
        )
    target = int(torch.randint(fewest, most + 1, (), generator=source))
    painted = torch.zeros(height, width, dtype=torch.bool)
    while (room := target - int(painted.sum())) > 0:
        for start, end, radius in _stroke(source, height, width):
            arrival = _arrival(start, end, radius, height, width).masked_fill(painted, math.inf)
            reached = arrival.isfinite()
            if (new := int(reached.sum())) <= room:
                painted |= reached
                room -= new
            else:
                painted.view(-1)[arrival.flatten().argsort(stable=True)[:room]] = True
                break
    return ~painted[None]


_Point = tuple[float, float]  # row, column


def _stroke(source: torch.Generator, height: int, width: int) -> list[tuple[_Point, _Point, float]]:
    """One stroke's segments: start, end (pixels), and the brush's radius; it starts in the picture."""
    side = min(height, width)
    radius = max(0.5, side * uniform(source, *RADII))
    point = uniform(source, 0, height - 1), uniform(source, 0, width - 1)
    heading = uniform(source, 0, 2 * math.pi)
    segments = []
    for number in range(int(uniform(source, SEGMENTS[0], SEGMENTS[1] + 1))):
        length = side * uniform(source, *LENGTHS)
        end = point[0] + length * math.sin(heading), point[1] + length * math.cos(heading)
        segments.append((point, end, radius))
        point = end
        heading += uniform(source, *TURNS) * (-1) ** number
    return segments


def _arrival(start: _Point, end: _Point, radius: float, height: int, width: int) -> Tensor:
    """When, in pixels of its way from start to end, the brush first touches each pixel (H, W); inf: never."""
    rows = torch.arange(height, dtype=torch.float64)[:, None] - start[0]
    columns = torch.arange(width, dtype=torch.float64)[None] - start[1]
    way = math.dist(start, end)
    down, right = (end[0] - start[0]) / way, (end[1] - start[1]) / way
    along = rows * down + columns * right
    nearest = along.clamp(0, way)
    distance = torch.hypot(rows - nearest * down, columns - nearest * right)
    sideways = torch.hypot(rows - along * down, columns - along * right)
    arrival = along - (radius**2 - sideways**2).clamp_min(0).sqrt()
    return torch.where(distance <= radius, arrival, math.inf)
