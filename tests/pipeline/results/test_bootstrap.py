"""Intervals by resampling agree with what is known of their statistics, and with resampling written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from p2l_engine.metrics import FeatureSums, frechet_distance
from p2l_engine.metrics.kernel import kernel
from pipeline.results import bootstrap
from pipeline.results.bootstrap import frechet_margin, kernel_margin, mean_interval


def test_the_interval_of_a_mean_is_near_that_of_its_distribution() -> None:
    """Student's t for normal values; Poisson's own for skewed ones, whose interval is not symmetric."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.4, 0.5, 60)
    low, high = mean_interval(values) or (0, 0)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.015)
    assert mean_interval(values) == (low, high)
    skewed = rng.exponential(1, 30) ** 2
    low, high = mean_interval(skewed) or (0, 0)
    assert high - skewed.mean() > 1.1 * (skewed.mean() - low)
    assert mean_interval(values[:1]) is None


def test_blocks_of_very_many_images_are_as_wide_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MOST_BLOCKS", 300)
    values = np.random.default_rng(1).normal(5, 2, 7_000)
    low, high = mean_interval(values) or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * 2 / 7_000**0.5, rel=0.12)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.005)


def frechet(x: np.ndarray, r: np.ndarray, drawn: np.ndarray) -> float:
    return frechet_distance(FeatureSums.of(x[drawn]), FeatureSums.of(r[drawn]))


def kernel_distance_of_others(x: np.ndarray, r: np.ndarray, drawn: np.ndarray) -> float:
    """Without pairs of an image with itself, and without the references' own term, which all share."""
    apart = drawn[:, None] != drawn[None]
    return float(kernel(x[drawn], x[drawn])[apart].mean() - 2 * kernel(x[drawn], r[drawn]).mean())


@pytest.mark.parametrize("features", [4, 60])
@pytest.mark.parametrize(
    ("margin", "written_out"), [(frechet_margin, frechet), (kernel_margin, kernel_distance_of_others)]
)
def test_the_margin_of_sets_is_that_of_resamples_written_out(
    margin: Callable[..., float | None], written_out: Callable[..., float], features: int
) -> None:
    """More images than features, and fewer."""
    rng = np.random.default_rng(2)
    r = rng.normal(0, 1, (20, features))
    x, y = r + rng.normal(0, 1, r.shape), r + rng.normal(0.2, 0.5, r.shape)
    found = []
    for counts in np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), 200):
        drawn = np.repeat(np.arange(20), counts)
        found.append(written_out(y, r, drawn) - written_out(x, r, drawn))
    assert margin(x, y, r) == pytest.approx(1.96 * np.std(found, ddof=1), rel=1e-6)
    assert margin(x, x, r) == pytest.approx(0, abs=1e-9)
    assert margin(x[:9], y[:9], r[:9]) is None


def test_smaller_resamples_of_large_sets_tell_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    r = rng.normal(0, 1, (400, 3))
    x, y = r + rng.normal(0, 1, r.shape), r + rng.normal(0.2, 0.5, r.shape)
    whole = frechet_margin(x, y, r)
    monkeypatch.setattr(bootstrap, "MOST_IN_RESAMPLE", 100)
    assert frechet_margin(x, y, r) == pytest.approx(whole, rel=0.25)
