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
    painted = torch.zeros(height, width, dtype=torch.bool)
    room = int(torch.randint(fewest, most + 1, (), generator=source))
    while room:
        for start, end, radius in _stroke(source, height, width):
            room -= _paint(painted, start, end, radius, room)
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


def _paint(painted: Tensor, start: _Point, end: _Point, radius: float, room: int) -> int:
    """Moves the brush from start to end on a picture (H, W), in place, until `room` more pixels are painted.

    Returns how many were. A pixel's turn comes when the brush first touches it.
    """
    rows = _reach(start[0], end[0], radius, painted.shape[0])
    columns = _reach(start[1], end[1], radius, painted.shape[1])
    canvas = painted[rows, columns]
    down = torch.arange(rows.start, rows.stop, dtype=torch.float64)[:, None] - start[0]
    right = torch.arange(columns.start, columns.stop, dtype=torch.float64)[None] - start[1]
    way = math.dist(start, end)
    along = (down * (end[0] - start[0]) + right * (end[1] - start[1])) / way
    sideways = (right * (end[0] - start[0]) - down * (end[1] - start[1])) / way
    touched = torch.hypot(along - along.clamp(0, way), sideways) <= radius
    arrival = along - (radius**2 - sideways**2).clamp_min(0).sqrt()
    new = touched & ~canvas
    count = min(int(new.sum()), room)
    turns = arrival.masked_fill(~new, math.inf).flatten().argsort(stable=True)
    canvas[turns[:count] // canvas.shape[1], turns[:count] % canvas.shape[1]] = True
    return count


def _reach(a: float, b: float, radius: float, size: int) -> slice:
    """The pixels of one side of the picture that a brush moving from a to b may touch."""
    first = min(max(math.floor(min(a, b) - radius), 0), size)
    return slice(first, max(min(math.ceil(max(a, b) + radius) + 1, size), first))
