"""Blur against an independent convolution, its kernels, and what is refused."""

import math

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from p2l_engine import operators
from p2l_engine.operators.gaussian import gaussian_profile
from p2l_engine.operators.motion import motion_kernel


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lopsided(count: int, height: int, width: int) -> Tensor:
    kernels = torch.rand(count, 1, height, width, generator=generator(0), dtype=torch.float64)
    return kernels / kernels.sum(dim=(1, 2, 3), keepdim=True)


def extent(kernel: Tensor) -> float:
    """Root mean square distance, in pixels, of a kernel's mass from its centroid."""
    rows, columns = torch.meshgrid(
        *(torch.arange(n, dtype=kernel.dtype) for n in kernel.shape[1:]), indexing="ij"
    )
    means = (kernel[0] * rows).sum(), (kernel[0] * columns).sum()
    return float((kernel[0] * ((rows - means[0]) ** 2 + (columns - means[1]) ** 2)).sum().sqrt())


@pytest.mark.parametrize(("padding", "mode"), [("reflect", "mirror"), ("circular", "wrap")])
@pytest.mark.parametrize("size", [(12, 12), (11, 18)], ids=str)
def test_each_image_is_convolved_with_its_own_kernel(padding: str, mode: str, size: tuple[int, int]) -> None:
    kernels = lopsided(2, 5, 7)
    x = torch.randn(2, 3, *size, generator=generator(1), dtype=torch.float64)
    y = operators.build("blur", padding=padding, kernels=kernels)(x)
    for image, blurred, kernel in zip(x, y, kernels, strict=True):
        for channel, result in zip(image, blurred, strict=True):
            expected = ndimage.convolve(channel.numpy(), kernel[0].numpy(), mode=mode)
            torch.testing.assert_close(result, torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_gaussian_kernels_have_their_sum_width_and_symmetry() -> None:
    bell = gaussian_profile(61, 3.0)
    assert float(bell.sum()) == pytest.approx(1, abs=1e-12)
    assert extent(torch.outer(bell, bell)[None]) == pytest.approx(3.0 * math.sqrt(2), rel=1e-6)
    torch.testing.assert_close(bell, bell.flip(0))


@pytest.mark.parametrize("padding", ["reflect", "circular"])
@pytest.mark.parametrize("size", [(12, 12), (11, 18)], ids=str)
def test_gaussian_blur_is_convolution_with_its_kernel(padding: str, size: tuple[int, int]) -> None:
    bell = gaussian_profile(9, 1.5)
    A = operators.build("gaussian_blur", size=9, sigma=1.5, padding=padding)
    same = operators.build("blur", padding=padding, kernels=torch.outer(bell, bell)[None, None])
    x, y = torch.randn(2, 2, 3, *size, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(A(x), same(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(A.adjoint(y), same.adjoint(y), rtol=0, atol=1e-12)
    torch.testing.assert_close(A.proximal(y, x, 0.1), same.proximal(y, x, 0.1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("intensity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [3, 15, 61])
def test_motion_kernels_are_centred_weights(size: int, intensity: float) -> None:
    grid = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    for seed in range(10):
        kernel = motion_kernel(generator(seed), size, intensity)
        assert kernel.shape == (1, size, size)
        assert (kernel >= 0).all()
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
        assert float((kernel[0].sum(1) * grid).sum()) == pytest.approx(0, abs=1e-6)
        assert float((kernel[0].sum(0) * grid).sum()) == pytest.approx(0, abs=1e-6)


def test_motion_without_intensity_is_a_straight_line_and_with_it_is_not() -> None:
    def straightness(kernel: Tensor) -> float:
        """Smaller over larger principal variance of the trace: 0 is a line."""
        grid = torch.arange(61, dtype=torch.float64) - 30
        across = torch.stack([grid.repeat_interleave(61), grid.repeat(61)])
        spread = torch.linalg.eigvalsh((kernel.flatten() * across) @ across.T)
        return float(spread[0] / spread[1])

    def median(intensity: float) -> float:
        return sorted(straightness(motion_kernel(generator(seed), 61, intensity)) for seed in range(20))[10]

    assert median(0.0) < 0.005 < 0.01 < median(0.5) < median(1.0)


def test_an_images_motion_kernel_is_its_generators_own() -> None:
    x = torch.randn(3, 3, 32, 32, generator=generator(0))
    together = operators.build("motion_blur", size=15, generators=[generator(seed) for seed in (1, 2, 3)])
    alone = operators.build("motion_blur", size=15, generators=[generator(3)])
    torch.testing.assert_close(together(x)[2:], alone(x[2:]))
    assert not torch.allclose(
        together(x[:1].expand(3, -1, -1, -1))[0], together(x[:1].expand(3, -1, -1, -1))[1]
    )


@pytest.mark.parametrize(("padding", "smallest"), [("reflect", 31), ("circular", 61)])
def test_a_kernel_too_large_for_the_image_is_refused(padding: str, smallest: int) -> None:
    A = operators.build("gaussian_blur", padding=padding)
    assert A.measurement_shape((3, smallest, smallest)) == (3, smallest, smallest)
    with pytest.raises(ValueError, match=rf"height and width \({smallest - 1}, 64\).*take a smaller kernel"):
        A(torch.zeros(1, 3, smallest - 1, 64))
    with pytest.raises(ValueError, match="take a smaller kernel"):
        operators.build("gaussian_blur", padding=padding, image_shape=(3, 16, 16))


@pytest.mark.parametrize(
    ("kernels", "got"),
    [
        (torch.full((1, 1, 3, 3), torch.nan), "NaN values"),
        (torch.tensor([[[[0.8, 0.4, -0.2]]]]), "negative"),
        (torch.full((1, 1, 3, 3), torch.inf), "infinite"),
        (torch.ones(1, 1, 3, 3), "sum is 9"),
        (torch.zeros(1, 1, 3, 3), "sum is 0"),
        (torch.full((1, 1, 4, 4), 1 / 16), r"shape \(1, 1, 4, 4\)"),
        (torch.full((3, 3), 1 / 9), r"shape \(3, 3\)"),
        (torch.full((1, 3, 3, 3), 1 / 9), r"shape \(1, 3, 3, 3\)"),
        (torch.ones(1, 1, 1, 1, dtype=torch.int64), "int64"),
    ],
    ids=["NaN", "negative", "infinite", "sum 9", "sum 0", "even", "no batch", "three channels", "integers"],
)
def test_what_is_no_kernel_is_refused(kernels: Tensor, got: str) -> None:
    with pytest.raises(ValueError, match=f"{got}.*; allowed: "):
        operators.build("blur", kernels=kernels)
