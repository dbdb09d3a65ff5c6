"""Batched conjugate gradients: the linear solver behind the proximal map of Eq. (19)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}  # |b - M u| <= tolerance |b|, for each image
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Solution:
    """What `conjugate_gradients` found; B images."""

    values: Tensor  # (B, ...) the solutions; NaN for an image whose right-hand side or M u is not finite
    iterations: Tensor  # (B,) int64, iterations that each image took
    residual: Tensor  # (B,) |b - M u| / |b| as the recursion sees it; 0 where b is 0
    converged: Tensor  # (B,) bool, whether the residual is within the tolerance


@torch.no_grad()
def conjugate_gradients(
    normal: Callable[[Tensor], Tensor],
    b: Tensor,
    start: Tensor,
    tolerance: float | None = None,
    max_iterations: int = MAX_ITERATIONS,
) -> Solution:
    """Solve M u = b for each image of a batch on its own, M symmetric positive definite.

    normal: u -> M u on (B, ...), which must not mix images. b and start: (B, ...), float32 or float64.
    tolerance: relative to the norm of each image's own b; None takes `TOLERANCE` of b's dtype.

    Step sizes, directions and the stopping test are per image: an image that has converged stands still
    while its neighbours go on, so its solution does not depend on them. No graph is recorded.
    """
    limit = (TOLERANCE[b.dtype] if tolerance is None else tolerance) * _norm(b)
    u = start.clone()
    residual = b - normal(u)
    direction = residual.clone()
    squared = _dot(residual, residual)
    iterations = torch.zeros(len(b), dtype=torch.int64, device=b.device)
    for _ in range(max_iterations):
        active = squared.sqrt() > limit  # False for NaN: that image stops, the others go on
        if not active.is_meta and not active.any():  # without data there is no knowing
            break
        applied = normal(direction)
        curvature = _dot(direction, applied)
        step = torch.where(active, squared / curvature, 0)
        u = u + _spread(step, u) * direction
        residual = residual - _spread(step, u) * applied
        previous, squared = squared, torch.where(active, _dot(residual, residual), squared)
        momentum = torch.where(active, squared / previous, 0)
        direction = residual + _spread(momentum, u) * direction
        iterations += active
    finite = squared.isfinite()
    return Solution(
        values=torch.where(_spread(finite, u), u, torch.nan),
        iterations=iterations,
        residual=squared.sqrt() / _norm(b).clamp_min(torch.finfo(b.dtype).tiny),
        converged=finite & (squared.sqrt() <= limit),
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
