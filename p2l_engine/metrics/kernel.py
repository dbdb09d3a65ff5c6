"""The kernel distance of two sets of features (KID, https://arxiv.org/abs/1801.01401)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def kernel_distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """The squared maximum mean discrepancy of features (N, D) and (M, D), unbiased, so it can be below 0.

    The kernel is that of `kernel`. Raises ValueError for fewer than two vectors in a set.

    Of all pairs together; the usual mean over random subsets of 1000 has the same expectation and more
    variance.
    """
    x, y = (np.asarray(features, np.float64) for features in (first, second))
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs 2 feature vectors of each set, got {len(x)} and {len(y)}")
    return _within(x) + _within(y) - 2 * float(kernel(x, y).mean())


def _within(x: NDArray[np.float64]) -> float:
    """The mean of the kernel over all pairs of two different vectors."""
    found = kernel(x, x)
    return float((found.sum() - np.trace(found)) / (len(x) * (len(x) - 1)))


def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """k(x, y) = (x^T y / D + 1)^3 of features (N, D) and (M, D), (N, M)."""
    found: NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** 3
    return found
