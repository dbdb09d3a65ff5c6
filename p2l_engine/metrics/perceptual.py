"""Distances between the features of trained networks, by the extra `metrics`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from p2l_engine.metrics.pixels import check_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray


def lpips(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    """Learned perceptual distance (VGG; 0 is identical) of two uint8 arrays (H, W, 3).

    Needs the extra `metrics`, whose VGG weights torchvision downloads once. Raises ModuleNotFoundError
    without it, and ValueError when the two are not uint8 RGB images of one size.
    """
    check_pair(reference, image)
    pair = [torch.from_numpy(a.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for a in (reference, image)]
    with torch.no_grad():
        return float(lpips_network()(*pair))


def inception_features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Inception-v3 features (N, 2048) of uint8 images (N, H, W, 3), for `FeatureSums.of`.

    Needs the extra `metrics`, whose Inception weights are downloaded once. Raises ModuleNotFoundError
    without it.
    """
    network = _inception_network()
    with torch.no_grad():
        features = network(torch.from_numpy(images.copy()).permute(0, 3, 1, 2))
    return np.asarray(features.double().reshape(len(images), -1).cpu().numpy())


@cache
def lpips_network() -> Any:
    """Called with two images (1, 3, H, W) from -1 to 1. Raises ModuleNotFoundError without the extra."""
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="vgg").eval()
    except ModuleNotFoundError as error:
        raise _missing_extra("LPIPS", error) from error


@cache
def _inception_network() -> Any:
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        return NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"]).eval()
    except ModuleNotFoundError as error:
        raise _missing_extra("FID", error) from error


def _missing_extra(metric: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{metric} needs the extra `metrics` (torchmetrics, torchvision, torch-fidelity): {error}"
    )
