"""How close a restored image is to its reference: PSNR, SSIM, LPIPS, FID and KID, by one stated protocol.

Images are uint8 arrays (H, W, 3), RGB, as they stand in the output after rounding (`to_uint8`).

PSNR   10 log10(255^2 / MSE) over all pixels and channels, in dB; infinite for identical images.
SSIM   Gaussian window of 11 pixels (sigma 1.5), population covariance, data range 255, K1 = 0.01, K2 = 0.03,
       the mean over the three channels and over the pixels whose window lies wholly inside the image.
LPIPS  VGG or AlexNet features, images scaled to [-1, 1].
FID    2048 Inception-v3 features, images resized as TensorFlow did it; sums that merge (`FeatureSums`).
KID    the same features, all pairs of them.

`NETWORKS` are the networks that there are, with the distances that each makes; `weights_here` says where
their weights are looked for. LPIPS and Inception's features need the extra `metrics`, EfficientNet's the
extra `scores`; everything else here needs only NumPy, SciPy and torch.
"""

from p2l_engine.metrics.frechet import FeatureSums, frechet_distance
from p2l_engine.metrics.kernel import kernel_distance
from p2l_engine.metrics.networks import NETWORKS, Network, Scorer, weights_here
from p2l_engine.metrics.perceptual import inception_features, lpips
from p2l_engine.metrics.pixels import psnr, ssim, to_uint8

__all__ = [
    "NETWORKS",
    "FeatureSums",
    "Network",
    "Scorer",
    "frechet_distance",
    "inception_features",
    "kernel_distance",
    "lpips",
    "psnr",
    "ssim",
    "to_uint8",
    "weights_here",
]
