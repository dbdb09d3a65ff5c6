"""Distances of sets, by the features in the shards' files; any number of images fits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import numpy as np

from p2l_engine.metrics import NETWORKS, FeatureSums, frechet_distance, kernel_distance
from pipeline.input.keys import key_hash
from pipeline.output import scores
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import READERS

MOST_IN_PAIRS = 5_000  # images of a set in a kernel distance, which takes all pairs


@dataclass(frozen=True)
class FeatureSet:
    """Features of any number of images: their sums, and those of the images whose keys have the least hashes.

    hashes: (K,) uint64, sorted. drawn: (K, D) float32, of at most MOST_IN_PAIRS images: the same ones,
    in whatever order parts are added, and the same of two sets with the same keys.
    """

    sums: FeatureSums
    hashes: np.ndarray
    drawn: np.ndarray

    @classmethod
    def of(cls, keys: Sequence[str], features: np.ndarray) -> FeatureSet:
        hashes = np.fromiter(map(key_hash, keys), np.uint64)
        return cls(FeatureSums.of(features), *_least(hashes, features))

    def __add__(self, other: FeatureSet) -> FeatureSet:
        hashes, drawn = (
            np.concatenate(both) for both in ((self.hashes, other.hashes), (self.drawn, other.drawn))
        )
        return FeatureSet(self.sums + other.sums, *_least(hashes, drawn))


def read(output: OutputFolder, files: Sequence[str], column: str) -> FeatureSet | None:
    """The features of all images of some files, None where there are none; a few files are in memory."""
    total: FeatureSet | None = None
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(files), READERS):
            read_one = partial(scores.features, output, column=column)
            found = [pair for pair in pool.map(read_one, files[start : start + READERS]) if pair[0]]
            parts = [FeatureSet.of(keys, features) for keys, features in found]
            total = reduce(add, parts if total is None else [total, *parts]) if parts else total
    return total


def distances(network: str, images: FeatureSet, references: FeatureSet) -> dict[str, float]:
    """By name. Raises ValueError for a set of fewer than two images."""
    found = NETWORKS[network]
    return {
        str(found.frechet): frechet_distance(images.sums, references.sums),
        str(found.kernel): kernel_distance(images.drawn, references.drawn),
    }


def _least(hashes: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(hashes, kind="stable")[:MOST_IN_PAIRS]
    return hashes[order], features[order]
