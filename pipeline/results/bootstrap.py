"""Intervals by resampling images with replacement, from a seed, so that they are the same each time.

Of means: the percentiles of 10,000 resamples. Of distances of sets, whose resamples are biased (images that
come twice lower a covariance's rank) and cost a decomposition each: the difference's own value, and around it
the deviation over 200 resamples.
"""

from __future__ import annotations

import numpy as np

from p2l_engine.metrics.frechet import between_factors
from p2l_engine.metrics.kernel import kernel

CONFIDENCE = 0.95
RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 100
MOST_BLOCKS = 10_000  # that are resampled: of more images, blocks of them in random order
RESAMPLES_OF_SETS = 200
MOST_IN_RESAMPLE = 1_000  # images of a set; of n the deviation of m is scaled by (m / n)^(1/2)
LEAST_IN_SET = 10  # images, below which a deviation says nothing
NORMAL = 1.96  # deviations of a 95 % interval


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of the mean of values (N,); None for fewer than two."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    blocks = np.array_split(rng.permutation(values), min(len(values), MOST_BLOCKS))
    sums, counts = np.array([block.sum() for block in blocks]), np.array([len(block) for block in blocks])
    means = []
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        drawn = rng.integers(len(blocks), size=(RESAMPLES_AT_ONCE, len(blocks)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def frechet_margin(first: np.ndarray, second: np.ndarray, references: np.ndarray) -> float | None:
    """Half of the 95 % interval of FD(second, references) - FD(first, references).

    The n-th features (N, D) of the three are of one image: each resample draws images with their references.
    None for fewer than 10.
    """
    counts = _counts(len(references))
    if counts is None:
        return None
    found = [
        frechet(second[w > 0], references[w > 0], w[w > 0])
        - frechet(first[w > 0], references[w > 0], w[w > 0])
        for w in counts
    ]
    return _margin(np.array(found), counts)


def kernel_margin(first: np.ndarray, second: np.ndarray, references: np.ndarray) -> float | None:
    """The same of kernel distances; a pair of one image with itself counts in no resample."""
    counts = _counts(len(references))
    if counts is None:
        return None
    found = _kernel(second, references, counts) - _kernel(first, references, counts)
    return _margin(found, counts)


def _counts(images: int) -> np.ndarray | None:
    """How often each image comes in each resample (R, N)."""
    if images < LEAST_IN_SET:
        return None
    rng = np.random.default_rng(0)
    return rng.multinomial(min(images, MOST_IN_RESAMPLE), np.full(images, 1 / images), RESAMPLES_OF_SETS)


def _margin(found: np.ndarray, counts: np.ndarray) -> float:
    drawn, images = counts[0].sum(), counts.shape[1]
    return float(NORMAL * found.std(ddof=1) * np.sqrt(drawn / images))


def frechet(images: np.ndarray, references: np.ndarray, weights: np.ndarray) -> float:
    """FD of features (N, D) that come so often each (N,); without a matrix of D by D where N is small."""
    return between_factors(*_centred(images, weights), *_centred(references, weights))


def _centred(features: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and a factor of the covariance of as few rows as it can have."""
    mean = weights @ features / weights.sum()
    factor = np.sqrt(weights / (weights.sum() - 1))[:, None] * (features - mean)
    if len(factor) > factor.shape[1]:
        factor = np.linalg.qr(factor).R
    return mean, factor


def _kernel(images: np.ndarray, references: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What of the kernel distance depends on the images, in each resample (R,)."""
    weights = counts.astype(np.float64)
    own, others = kernel(images, images), kernel(images, references)
    np.fill_diagonal(own, 0)
    within = ((weights @ own) * weights).sum(1) / (weights.sum(1) ** 2 - (weights**2).sum(1))
    across = ((weights @ others) * weights).sum(1) / weights.sum(1) ** 2
    return within - 2 * across
