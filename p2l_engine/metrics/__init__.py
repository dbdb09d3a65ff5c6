"""How close a restored image is to its reference: PSNR, SSIM, LPIPS and FID, by one stated protocol.

Images are uint8 arrays (H, W, 3), RGB, as they stand in the output after rounding (`to_uint8`).

PSNR   10 log10(255^2 / MSE) over all pixels and channels, in dB; infinite for identical images.
SSIM   Gaussian window of 11 pixels (sigma 1.5), population covariance, data range 255, K1 = 0.01, K2 = 0.03,
       the mean over the three channels and over the pixels whose window lies wholly inside the image.
LPIPS  VGG features, images scaled to [-1, 1].
FID    2048 Inception-v3 features; sums that merge over shards (`FeatureSums`), one finishing step.

LPIPS and Inception features need the extra `metrics`; everything else here needs only NumPy and scikit-image.
"""

from p2l_engine.metrics.frechet import FeatureSums, frechet_distance
from p2l_engine.metrics.perceptual import inception_features, lpips
from p2l_engine.metrics.pixels import psnr, ssim, to_uint8

__all__ = ["FeatureSums", "frechet_distance", "inception_features", "lpips", "psnr", "ssim", "to_uint8"]
