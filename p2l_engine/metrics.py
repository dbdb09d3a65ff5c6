"""How close a restored image is to its reference: PSNR, SSIM, LPIPS and FID, by one stated protocol.

Images are uint8 arrays (H, W, 3), RGB, as they stand in the output after rounding (`to_uint8`).

PSNR   10 log10(255^2 / MSE) over all pixels and channels, in dB; infinite for identical images.
SSIM   Gaussian window of 11 pixels (sigma 1.5), population covariance, data range 255, K1 = 0.01, K2 = 0.03,
       the mean over the three channels and over the pixels whose window lies wholly inside the image.
LPIPS  VGG features, images scaled to [-1, 1].
FID    2048 Inception-v3 features; sums that merge over shards (`FeatureSums`), one finishing step.

LPIPS and Inception features need the extra `metrics`; everything else here needs only NumPy and scikit-image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from skimage.metrics import structural_similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

SSIM_WINDOW = 11  # pixels; both sides of an image must be at least this long
PROTOCOL = (
    "RGB, uint8 after rounding, data range 255; SSIM: Gaussian window 11, sigma 1.5, population covariance"
)


def to_uint8(images: torch.Tensor) -> NDArray[np.uint8]:
    """Images (..., 3, H, W) in [-1, 1] as uint8 arrays (..., H, W, 3), clamped, then rounded to nearest.

    Raises ValueError when a value is not finite: such an image has no pixels to store.
    """
    if not torch.isfinite(images).all():
        raise ValueError("an image holds NaN or infinity; expected finite values in [-1, 1]")
    levels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.movedim(-3, -1).cpu().numpy())


def psnr(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays (H, W, 3); infinite when they are identical.

    Raises ValueError when they are not two uint8 RGB images of one size.
    """
    _check_pair(reference, image)
    error = np.mean((reference.astype(np.float64) - image.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> float | None:
    """Structural similarity in [-1, 1] of two uint8 arrays (H, W, 3); None when a side is below 11 pixels.

    Raises ValueError when they are not two uint8 RGB images of one size.
    """
    _check_pair(reference, image)
    if min(image.shape[:2]) < SSIM_WINDOW:
        return None
    return float(
        structural_similarity(
            reference,
            image,
            channel_axis=-1,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def lpips(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    """Learned perceptual distance (VGG; 0 is identical) of two uint8 arrays (H, W, 3).

    Needs the extra `metrics`, whose VGG weights torchvision downloads once. Raises ModuleNotFoundError
    without it, and ValueError when the two are not uint8 RGB images of one size.
    """
    _check_pair(reference, image)
    pair = [torch.from_numpy(a.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for a in (reference, image)]
    with torch.no_grad():
        return float(_lpips_network()(*pair))


def inception_features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Inception-v3 features (N, 2048) of uint8 images (N, H, W, 3), for `FeatureSums.of`.

    Needs the extra `metrics`, whose Inception weights are downloaded once. Raises ModuleNotFoundError
    without it.
    """
    network = _inception_network()
    with torch.no_grad():
        features = network(torch.from_numpy(images.copy()).permute(0, 3, 1, 2))
    return np.asarray(features.double().reshape(len(images), -1).cpu().numpy())


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


def _check_pair(reference: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    for name, array in (("reference", reference), ("image", image)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"{name}: expected a uint8 array (H, W, 3), got {array.dtype} {array.shape}")
    if reference.shape != image.shape:
        raise ValueError(f"reference and image must have one size, got {reference.shape} and {image.shape}")


@cache
def _lpips_network() -> Any:
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
