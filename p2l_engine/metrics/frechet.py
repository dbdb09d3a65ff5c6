"""The Frechet distance of two sets of features, by sums that merge over shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FeatureSums:
    """Sums of N feature vectors, all that FID needs: those of two shards add up to those of both.

    count: N. total: (D,) float64, the sum. outer: (D, D) float64, the sum of outer products.
    """

    count: int
    total: NDArray[np.float64]
    outer: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[Any]) -> FeatureSums:
        """The sums of features (N, D)."""
        x = np.asarray(features, dtype=np.float64)
        return cls(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def gaussian(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (D,) and sample covariance (D, D). Raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors, got {self.count}")
        mean = self.total / self.count
        return mean, (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)


def frechet_distance(first: FeatureSums, second: FeatureSums) -> float:
    """FID of two sets of features: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)); 0 when they agree."""
    (mean1, cov1), (mean2, cov2) = first.gaussian(), second.gaussian()
    # S1 S2 has the eigenvalues of the symmetric root(S1) S2 root(S1), so no general matrix root is needed.
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root).clip(min=0)).sum()
    return float(np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * cross)
