"""How far two runs' images are from the originals as sets, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from p2l_engine.metrics import NETWORKS, kernel_distance
from pipeline.input.keys import key_hash
from pipeline.output import scores
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import READERS
from pipeline.results.bootstrap import frechet, frechet_margin, kernel_margin
from pipeline.results.paired import Rows

MOST_IMAGES = 5_000  # of more, those whose keys have the least hashes


class SetDifference(NamedTuple):
    """A distance of both runs from the originals, on the same images. margin: half of a 95 % interval."""

    name: str
    images: int
    first: float
    second: float
    margin: float | None


def of(first: Rows, second: Rows, keys: Sequence[str]) -> Iterator[SetDifference]:
    """By each network that both runs are scored by. keys: of the images that are ok in both."""
    chosen = set(sorted(keys, key=key_hash)[:MOST_IMAGES])
    for network in first.networks:
        found = NETWORKS[network]
        if network not in second.networks or not (found.frechet and found.kernel):
            continue
        sets = [
            _features(first.run, network, scores.FEATURES, chosen),
            _features(second.run, network, scores.FEATURES, chosen),
            _features(first.run, network, scores.REFERENCE_FEATURES, chosen),
        ]
        common = sorted(set.intersection(*(set(features) for features in sets)))
        if len(common) < 2:
            continue
        x, y, r = (np.stack([features[key] for key in common]).astype(np.float64) for features in sets)
        once = np.ones(len(common))
        one, other = (frechet(images, r, once) for images in (x, y))
        yield SetDifference(found.frechet, len(common), one, other, frechet_margin(x, y, r))
        one, other = (kernel_distance(images, r) for images in (x, y))
        yield SetDifference(found.kernel, len(common), one, other, kernel_margin(x, y, r))


def _features(run: OutputFolder, network: str, column: str, keys: set[str]) -> dict[str, np.ndarray]:
    """Those (D,) of each of the keys that has them."""
    found: dict[str, np.ndarray] = {}
    read = partial(scores.features, run, column=column, keys=keys)
    with ThreadPoolExecutor(READERS) as pool:
        for names, features in pool.map(read, scores.files(run, network)):
            found |= zip(names, features, strict=True)
    return found
