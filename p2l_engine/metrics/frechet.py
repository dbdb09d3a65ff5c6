"""The Frechet distance of two sets of features, by sums that merge over shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureSums:
    """Sums of N feature vectors, all that FID needs: those of two shards merge into those of both.

    count: N. mean: (D,) float64. scatter: (D, D) float64, the sum of (x - mean)(x - mean)^T. By these, and
    not by sums of x and x x^T, whose difference would be lost to rounding where the mean is large.
    """

    count: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, features: NDArray[Any]) -> FeatureSums:
        """The sums of features (N, D), of which there must be one at least."""
        x = np.asarray(features, dtype=np.float64)
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def __add__(self, other: FeatureSums) -> FeatureSums:
        """Of both sets together (Chan, Golub and LeVeque, 1979)."""
        count, step = self.count + other.count, other.mean - self.mean
        between = np.outer(step, step) * (self.count * other.count / count)
        return FeatureSums(
            count, self.mean + step * (other.count / count), self.scatter + other.scatter + between
        )

    def gaussian(self) -> tuple[Array, Array]:
        """Mean (D,) and sample covariance (D, D). Raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors, got {self.count}")
        return self.mean, self.scatter / (self.count - 1)


def frechet_distance(first: FeatureSums, second: FeatureSums) -> float:
    """FID of two sets of features: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)); 0 when they agree."""
    (mean1, cov1), (mean2, cov2) = first.gaussian(), second.gaussian()
    return between_factors(mean1, _factor(cov1), mean2, _factor(cov2))


def between_factors(mean1: Array, factor1: Array, mean2: Array, factor2: Array) -> float:
    """The distance by means (D,) and any R (K, D) with S = R^T R: also centred features / (N - 1)^(1/2).

    tr (S1 S2)^(1/2) is the sum of the singular values of R1 R2^T: no eigenvalue that rounding made of a 0 is
    put under a root, which would count as 1e-8.
    """
    cross = np.linalg.svd(factor1 @ factor2.T, compute_uv=False).sum()
    return float(np.sum((mean1 - mean2) ** 2) + np.sum(factor1**2) + np.sum(factor2**2) - 2 * cross)


def _factor(covariance: Array) -> Array:
    """R (K, D) with R^T R = S, of as many rows as S has a rank."""
    values, vectors = np.linalg.eigh(covariance)
    there = values > values[-1] * len(values) * np.finfo(np.float64).eps
    factor: Array = np.sqrt(values[there])[:, None] * vectors[:, there].T
    return factor
