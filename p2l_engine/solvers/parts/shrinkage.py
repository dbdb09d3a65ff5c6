"""The mean of several samples, drawn toward total variation's image where they disagree.

Shrinkage as a Wiener filter's, pixel by pixel: s^2 says how far off the samples are, d^2 how far off that
image is. Where the samples agree it counts for nothing, and the more for all that they differ.

| symbol | code | meaning |
|---|---|---|
| x_1, ..., x_n | samples | restorations of an image from seeds of their own |
| m, s^2 | mean, variance | of the samples; s^2 of a pixel is the mean over its channels |
| x_TV | x | total variation's image, with the weight that the noise gives it |
| d^2 | distance | (m - x_TV)^2, of a pixel the mean over its channels |
| | shrunk | x_TV + d^2 / (d^2 + s^2) (m - x_TV) |
"""

import torch
from torch import Tensor

LEAST = 1e-12  # of d^2 + s^2, where both images are the same


def shrunk(samples: Tensor, x: Tensor) -> Tensor:
    """(B, 3, H, W) of samples (n, B, 3, H, W), n at least 2, and x (B, 3, H, W)."""
    mean = samples.mean(dim=0)
    variance = samples.var(dim=0).mean(dim=1, keepdim=True)
    distance = (mean - x).square().mean(dim=1, keepdim=True)
    return torch.lerp(x, mean, distance / (distance + variance).clamp_min(LEAST))
