"""The metrics follow their stated protocol."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage import data

from p2l_engine import metrics


def photograph(side: int = 64) -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[:side, 180 : 180 + side])


def noisy(image: np.ndarray, scale: float = 10.0) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, scale, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


def test_psnr_of_a_known_error() -> None:
    black = np.zeros((4, 5, 3), np.uint8)
    assert metrics.psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-4)
    assert metrics.psnr(black, black) == float("inf")


def test_ssim_is_the_windowed_definition() -> None:
    """One channel, one 11 x 11 window, written out from the definition."""
    reference, image = photograph(11), noisy(photograph(11))
    profile = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(profile, profile) / profile.sum() ** 2
    scores = []
    for x, y in zip(np.moveaxis(reference, 2, 0) * 1.0, np.moveaxis(image, 2, 0) * 1.0, strict=True):
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * x * x).sum() - mx * mx, (window * y * y).sum() - my * my
        cov = (window * x * y).sum() - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        scores.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2)))
    assert metrics.ssim(reference, image) == pytest.approx(np.mean(scores), abs=1e-9)


def test_ssim_is_none_below_its_window() -> None:
    small = photograph(10)
    assert metrics.ssim(small, small) is None
    assert metrics.ssim(photograph(), photograph()) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_images_of_unequal_size_or_wrong_type_are_refused(metric: Callable[..., float | None]) -> None:
    image = photograph()
    with pytest.raises(ValueError, match="one size"):
        metric(image, image[:32])
    with pytest.raises(ValueError, match="uint8"):
        metric(image, image / 255.0)


def test_to_uint8_clamps_rounds_and_undoes_scaling() -> None:
    image = photograph()
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert (metrics.to_uint8(tensor)[0] == image).all()
    assert metrics.to_uint8(torch.tensor([-3.0, 0.003, 3.0]).reshape(3, 1, 1)).tolist() == [[[0, 128, 255]]]
    with pytest.raises(ValueError, match="NaN"):
        metrics.to_uint8(torch.full((3, 2, 2), float("nan")))
