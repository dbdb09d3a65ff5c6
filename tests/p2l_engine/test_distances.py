"""Distances of pairs and sets by features: sums that merge, and networks that are what they are called."""

from __future__ import annotations

import importlib
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import linalg
from skimage import data

from p2l_engine import metrics
from p2l_engine.metrics import FeatureSums, efficientnet, frechet_distance, kernel_distance
from p2l_engine.metrics.networks import unit_distances

PHOTOGRAPHS = (data.astronaut, data.coffee, data.chelsea, data.rocket)


@pytest.fixture(scope="module")
def network() -> metrics.Scorer:
    file = metrics.weights_here("efficientnet")
    assert file is not None
    return metrics.NETWORKS["efficientnet"].load(file)


def square(image: np.ndarray, side: int) -> Image.Image:
    edge = min(image.shape[:2])
    top, left = (image.shape[0] - edge) // 2, (image.shape[1] - edge) // 2
    cut = Image.fromarray(image[top : top + edge, left : left + edge])
    return cut.resize((side, side), Image.Resampling.BICUBIC)


def batch(*pictures: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """The Frechet distance with a general matrix root."""
    s1, s2 = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(s1 @ s2).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root))


def test_sums_of_any_parts_are_those_of_the_whole_far_from_zero_as_well() -> None:
    """Mean 1e3 and deviation 1, in parts of 1 to 40: sums of x x^T lose six digits of the covariance."""
    rng = np.random.default_rng(1)
    x, y = (rng.normal(1e3, 1, (120, 6)) @ np.diag(np.arange(1, 7)) for _ in range(2))
    parts = np.split(x, [1, 3, 40, 41, 80])
    merged = reduce(add, map(FeatureSums.of, [parts[3], *parts[:3], *parts[4:]]))
    mean, covariance = merged.gaussian()
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(x.T), rtol=1e-10, atol=1e-11)
    apart = frechet_distance(merged, FeatureSums.of(y))
    assert apart == pytest.approx(frechet_distance(FeatureSums.of(x), FeatureSums.of(y)), rel=1e-9)
    assert apart == pytest.approx(by_definition(x, y), rel=1e-6)
    assert frechet_distance(merged, FeatureSums.of(x)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="at least 2"):
        FeatureSums.of(x[:1]).gaussian()


def test_a_million_images_on_a_hundred_workers_come_to_the_distance_of_one_process() -> None:
    """In 1,000 shards, each summed by itself; a run that is resumed twice has them in three lots."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(1e3, 1, (10**6, 4)), rng.normal(1e3 + 0.1, 1, (5000, 4))
    shards = [FeatureSums.of(part) for part in np.split(x, 1000)]
    order = rng.permutation(1000)
    lots = np.split(order, [170, 640])
    workers = [reduce(add, (shards[i] for i in some)) for lot in lots for some in np.array_split(lot, 100)]
    apart = frechet_distance(reduce(add, workers), FeatureSums.of(y))
    assert apart == pytest.approx(frechet_distance(FeatureSums.of(x), FeatureSums.of(y)), rel=1e-6)
    assert apart == pytest.approx(0.04, rel=0.2), "four means that are 0.1 apart, squared"


def test_the_distance_of_fewer_images_than_features_does_not_depend_on_the_parts() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 1, (20, 300)), rng.normal(0.1, 1, (30, 300))
    parts = reduce(add, map(FeatureSums.of, np.split(x, [7, 8])))
    whole = frechet_distance(FeatureSums.of(x), FeatureSums.of(y))
    assert frechet_distance(parts, FeatureSums.of(y)) == pytest.approx(whole, rel=1e-10)


def test_frechet_distance_of_known_gaussians() -> None:
    x = np.random.default_rng(2).normal(size=(500, 4))
    shifted = FeatureSums.of(3 * x + 1)  # covariance 9 S, so the trace term is (3 - 1)^2 tr S
    mean, covariance = FeatureSums.of(x).gaussian()
    expected = np.sum((2 * mean + 1) ** 2) + 4 * np.trace(covariance)
    assert frechet_distance(FeatureSums.of(x), shifted) == pytest.approx(expected)


def test_kernel_distance_is_the_unbiased_statistic() -> None:
    """Written out over all pairs; and near 0, of either sign, for two samples of one distribution."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (5, 3)), rng.normal(1, 1, (4, 3))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(expected)
    same = [kernel_distance(*rng.normal(0, 1, (2, 60, 8))) for _ in range(40)]
    assert min(same) < 0 < max(same)
    assert abs(np.mean(same)) < 3 * np.std(same) / 40**0.5
    with pytest.raises(ValueError, match="got 1 and 4"):
        kernel_distance(x[:1], y)


def test_the_shipped_weights_see_what_photographs_show(network: metrics.Scorer) -> None:
    """By the file's own classifier: a tabby, an espresso, a missile, of 1000 classes."""
    file = metrics.weights_here("efficientnet")
    assert file is not None and network.features is not None
    weights = torch.load(file, weights_only=True)
    found = network.features(batch(*(square(of(), 224) for of in (data.chelsea, data.coffee, data.rocket))))
    assert found.shape == (3, efficientnet.WIDTH)
    classes = (found @ weights["_fc.weight"].T + weights["_fc.bias"]).argmax(1).tolist()
    assert classes[0] in (281, 282, 285)  # cats
    assert classes[1:] == [967, 657]


def test_the_perceptual_distance_grows_with_blur_and_with_noise(network: metrics.Scorer) -> None:
    """On four photographs, in four sizes of each; 0 for itself, and symmetric."""
    assert network.distances is not None
    rng = np.random.default_rng(0)
    for side in (64, 129):
        pictures = [square(of(), side) for of in PHOTOGRAPHS]
        clean = batch(*pictures)
        assert network.distances(clean, clean).abs().max() == 0
        blurred = [batch(*(p.filter(ImageFilter.GaussianBlur(r)) for p in pictures)) for r in (0.5, 1, 2, 4)]
        draw = torch.from_numpy(rng.normal(size=clean.shape))
        noisy = [(clean + s * draw).round().clamp(0, 255).to(torch.uint8) for s in (2, 8, 32, 80)]
        for worse in (blurred, noisy):
            grown = torch.stack([network.distances(clean, image) for image in worse])
            assert (grown[0] > 0).all() and (grown.diff(dim=0) > 0).all(), grown
            torch.testing.assert_close(network.distances(worse[1], clean), grown[1])


def test_unit_distances_are_those_of_directions() -> None:
    """One layer of one pixel: the squared chord of the angle, whatever the lengths; the mean over layers."""
    first = torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1)
    second = torch.tensor([0.0, 0.5]).reshape(1, 2, 1, 1)
    assert float(unit_distances([first], [second])) == pytest.approx(2)
    assert float(unit_distances([first, first], [second, -first])) == pytest.approx((2 + 4) / 2)


def test_weights_of_another_network_and_files_that_run_code_are_refused(tmp_path: Path) -> None:
    file = tmp_path / metrics.NETWORKS["efficientnet"].file
    torch.save({"weight": torch.zeros(3)}, file)
    assert metrics.weights_here("efficientnet", tmp_path) == file
    with pytest.raises(ValueError, match="not the weights of EfficientNet"):
        metrics.NETWORKS["efficientnet"].load(file)
    torch.save({"weight": Path("/")}, file)
    with pytest.raises(ValueError, match="not a file of weights alone"):
        metrics.NETWORKS["efficientnet"].load(file)


def test_weights_that_are_nowhere_are_named_and_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2L_NETWORKS", str(tmp_path))
    assert metrics.weights_here("vgg16") is None
    assert metrics.weights_here("efficientnet", tmp_path) is not None  # the package has it
    photograph = np.asarray(square(data.chelsea(), 64))
    with pytest.raises(FileNotFoundError, match="lpips_vgg: vgg16-397923af.pth is not at hand; put it"):
        metrics.lpips(photograph, photograph)
    with pytest.raises(FileNotFoundError, match="weights-inception-2015-12-05-6726825d.pth"):
        metrics.inception_features(photograph[None])


@pytest.fixture
def torchvision() -> Any:
    try:
        return importlib.import_module("torchvision")
    except (ModuleNotFoundError, RuntimeError) as error:
        pytest.skip(f"the extra `metrics` is not to be had here: {error}")


def test_lpips_is_its_formula_with_the_weights_of_the_file_that_is_given(
    tmp_path: Path, torchvision: Any
) -> None:
    """Random weights, where a torchvision fits torch; written out layer by layer."""
    import torchmetrics

    found, file = metrics.NETWORKS["alexnet"], tmp_path / metrics.NETWORKS["alexnet"].file
    torch.manual_seed(0)
    trunk = torchvision.models.alexnet(weights=None)
    torch.save(trunk.state_dict(), tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")  # as in the hub's cache
    folder = Path(str(torchmetrics.__file__)).parent / "functional" / "image" / "lpips_models"
    learned = list(torch.load(folder / "alex.pth", "cpu", weights_only=True).values())
    scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[:, :, None, None]
    x, y = (batch(square(of(), 64)) for of in PHOTOGRAPHS[:2])
    maps = [((image.float() / 127.5 - 1) - scale[0]) / scale[1] for image in (x, y)]
    expected = torch.zeros(1)
    for number, layer in enumerate(trunk.features[:12]):
        maps = [layer(image) for image in maps]
        if number in (1, 4, 7, 9, 11):  # after each ReLU
            chord = (torch.nn.functional.normalize(maps[0]) - torch.nn.functional.normalize(maps[1])).square()
            expected = expected + (chord * learned.pop(0)).sum(1).mean((1, 2))
    distances = found.load(file).distances
    assert distances is not None
    torch.testing.assert_close(distances(x, y), expected.detach(), rtol=1e-4, atol=1e-6)


def test_inception_features_are_those_of_the_file_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchvision: Any
) -> None:
    """Random weights, where a torchvision fits torch: as by torch-fidelity's own network, of any size."""
    vendor = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    wanted = metrics.NETWORKS["inception"]
    nothing, file = tmp_path / "nothing.pth", tmp_path / wanted.file
    torch.save({}, nothing)
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *given: None)
        network = vendor.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(nothing))
    torch.save(network.state_dict(), file)
    pictures = batch(*(square(of(), 64) for of in PHOTOGRAPHS[:2]))
    features = wanted.load(file).features
    assert features is not None
    found = features(pictures)
    assert found.shape == (2, 2048) and found.std(0).max() > 0
    torch.testing.assert_close(found, network(pictures)[0], rtol=1e-4, atol=1e-5)
