"""Distances between the features of trained networks, whose weights are files that the user has."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from p2l_engine.metrics.networks import NETWORKS, Scorer, weights_here
from p2l_engine.metrics.pixels import check_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray


def lpips(
    reference: NDArray[np.uint8], image: NDArray[np.uint8], network: Literal["vgg16", "alexnet"] = "vgg16"
) -> float:
    """Learned perceptual distance (0 is identical) of two uint8 arrays (H, W, 3).

    Needs the extra `metrics`, and the weights where `weights_here` looks. Raises ModuleNotFoundError and
    FileNotFoundError without them, and ValueError when the two are not uint8 RGB images of one size.
    """
    check_pair(reference, image)
    distances = _here(network).distances
    assert distances is not None
    return float(distances(_batch(reference[None]), _batch(image[None])))


def inception_features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Inception-v3 features (N, 2048) of uint8 images (N, H, W, 3), for `FeatureSums.of`.

    Needs the extra `metrics`, and the weights where `weights_here` looks. Raises ModuleNotFoundError and
    FileNotFoundError without them.
    """
    features = _here("inception").features
    assert features is not None
    return features(_batch(images)).double().numpy()


@cache
def _here(network: str) -> Scorer:
    file = weights_here(network)
    if file is None:
        raise FileNotFoundError(NETWORKS[network].wanted)
    return NETWORKS[network].load(file)


def _batch(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
