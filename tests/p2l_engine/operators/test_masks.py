"""Masks: the share that each kind drops, what is drawn from what, and what is refused."""

import pytest
import torch
from torch import Tensor

from p2l_engine import operators
from p2l_engine.operators.brush import CLASSES, free_form_mask
from p2l_engine.operators.masks import box_mask, random_mask


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dropped(mask: Tensor) -> float:
    return 1 - float(mask.double().mean())


@pytest.mark.parametrize("coverage", CLASSES)
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (17, 33), (11, 10)], ids=str)
def test_the_share_that_free_form_strokes_drop_lies_in_the_class(
    coverage: str, size: tuple[int, int]
) -> None:
    low, high = CLASSES[coverage]
    masks = [free_form_mask(generator(seed), *size, coverage) for seed in range(5)]
    assert all(mask.shape == (1, *size) and low < dropped(mask) < high for mask in masks)


def test_free_form_shares_spread_over_their_class() -> None:
    shares = [dropped(free_form_mask(generator(seed), 32, 32, "20-30%")) for seed in range(60)]
    assert min(shares) < 0.22
    assert max(shares) > 0.28


def test_free_form_holes_are_strokes_and_not_scattered_pixels() -> None:
    hole = ~free_form_mask(generator(0), 64, 64, "20-30%")[0]
    same_below = (hole[1:] == hole[:-1]).double().mean()
    assert same_below > 0.9


def test_a_picture_too_small_for_a_free_form_class_is_refused() -> None:
    with pytest.raises(ValueError, match="got a picture of 2x2"):
        free_form_mask(generator(0), 2, 2, "10-20%")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.92])
def test_random_masks_drop_their_share(share: float) -> None:
    mask = random_mask(generator(0), 20, 30, share)
    assert mask.shape == (1, 20, 30)
    assert dropped(mask) == pytest.approx(share, abs=0.5 / 600)


def test_box_masks_drop_one_box_of_that_share_of_each_side() -> None:
    mask = box_mask(generator(3), 20, 30, 0.5)
    assert dropped(mask) == pytest.approx(0.25)
    rows, columns = (~mask[0]).nonzero(as_tuple=True)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (10, 15)
    assert not torch.equal(mask, box_mask(generator(4), 20, 30, 0.5))


@pytest.mark.parametrize("kind", ["random", "free_form", "box"])
def test_an_images_mask_is_its_generators_own(kind: str) -> None:
    def masks(*seeds: int) -> Tensor:
        sources = [generator(seed) for seed in seeds]
        A = operators.build("inpainting", mask=kind, generators=sources, image_shape=(3, 24, 24))
        return A(torch.ones(len(seeds), 3, 24, 24))

    together = masks(1, 2, 3)
    torch.testing.assert_close(together[[2, 0]], masks(3, 1))
    assert not torch.equal(together[0], together[1])


def test_holes_get_no_noise_and_channels_share_a_mask() -> None:
    mask = torch.tensor([[1, 0], [0, 1]]).view(1, 1, 2, 2)
    A = operators.build("inpainting", mask="given", masks=mask)
    y = A.measure(torch.ones(1, 3, 2, 2), 0.5, [generator(0)])
    assert not y[:, :, ~mask.bool()[0, 0]].any()
    assert (y[:, :, mask.bool()[0, 0]] != 1).all()


def test_a_hole_in_the_measurement_may_hold_anything() -> None:
    A = operators.build("inpainting", mask="given", masks=torch.tensor([[[[1.0, 0.0]]]]))
    y, x = torch.tensor([[[[0.5, torch.nan]]]]), torch.zeros(1, 1, 1, 2)
    for result in (A.adjoint(y), A.backproject(y), A.glue(y, x), A.proximal(y, x, 1.0)):
        assert result.isfinite().all()


@pytest.mark.parametrize(
    ("mask", "got"),
    [
        (torch.full((1, 1, 4, 4), torch.nan), "nan"),
        (torch.full((1, 1, 4, 4), -1.0), "-1.0"),
        (torch.full((1, 1, 4, 4), 0.5), "0.5"),
        (torch.full((1, 1, 4, 4), 255, dtype=torch.uint8), "255"),
        (torch.ones(4, 4), r"shape \(4, 4\)"),
        (torch.ones(1, 3, 4, 4), r"shape \(1, 3, 4, 4\)"),
        (torch.ones(0, 1, 4, 4), r"got .*masks|shape \(0, 1, 4, 4\)"),
    ],
    ids=["NaN", "negative", "fraction", "8 bits", "no batch", "three channels", "none"],
)
def test_what_is_no_mask_is_refused(mask: Tensor, got: str) -> None:
    with pytest.raises(ValueError, match=f"{got}.*; allowed: "):
        operators.build("inpainting", mask="given", masks=mask)
