"""What of a mask is observed, however its file says it, and how masks and kernels fit a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.input.rows import InputRow
from pipeline.pictures.images import ImageError
from pipeline.pictures.masks import ALL_OBSERVED, MAYBE_INVERTED, doubt, fit_mask, read_mask
from pipeline.worker.measure import prepare
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.small_jobs import encoded, job, picture

SIDE = 32
OBSERVED = np.ones((SIDE, SIDE), bool)
OBSERVED[8:20, 12:28] = False
HOLE = ~OBSERVED


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def grey(hole: int, observed: int, kind: Any = np.uint8) -> np.ndarray:
    return np.where(OBSERVED, observed, hole).astype(kind)


def indexed(hole: int, observed: int, *colours: int) -> Image.Image:
    image = Image.fromarray(grey(hole, observed), "P")
    image.putpalette(colours)
    return image


def layers(brightness: np.ndarray | int, alpha: np.ndarray | int) -> Image.Image:
    shape = np.zeros((SIDE, SIDE, 1), np.uint8)
    parts = [np.asarray(part, np.uint8).reshape(-1, SIDE, 1) if np.ndim(part) else shape + part for part in
             (brightness, brightness, brightness, alpha)]  # fmt: skip
    return Image.fromarray(np.concatenate(parts, axis=2).astype(np.uint8))


FULL = grey(0, 255)
VOC = (0, 0, 0, 128, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(FULL)),
        encoded(Image.fromarray(grey(0, 1))),
        encoded(Image.fromarray(grey(7, 9))),
        encoded(Image.fromarray(OBSERVED)),
        encoded(Image.fromarray(grey(0, 1, np.uint16))),
        encoded(Image.fromarray(grey(0, 65535, np.uint16)), "TIFF"),
        encoded(Image.fromarray(FULL).convert("RGB")),
        encoded(Image.fromarray(FULL).convert("RGB"), "BMP"),
        encoded(Image.fromarray(FULL), "GIF"),
        imagecodecs.png_encode(np.repeat(grey(0, 65535, np.uint16)[..., None], 3, 2)),
        encoded(indexed(0, 1, *VOC)),
        encoded(indexed(1, 0, 255, 255, 255, 0, 0, 0)),
        encoded(indexed(0, 1, 0, 0, 128, 255, 255, 0), "TIFF"),
        encoded(layers(255, FULL)),
        encoded(layers(0, FULL)),
        encoded(layers(90, FULL), "TIFF"),
        encoded(layers(FULL, 255)),
        encoded(layers(FULL, 128)),
        encoded(layers(FULL, FULL)),
        encoded(layers(255, grey(3, 200)), "WEBP", lossless=True, exact=True),
        encoded(layers(grey(255, 0), FULL)),  # what cannot be seen has any colour
        encoded(Image.fromarray(np.dstack([np.full_like(FULL, 255), FULL]))),
        encoded(indexed(0, 1, 0, 0, 0, 255, 255, 255), transparency=0),
        encoded(indexed(0, 1, 9, 9, 9, 9, 9, 9), transparency=0),
        npy(OBSERVED),
        npy(grey(0, 1, np.int64)),
        npy(grey(0, 255)),
        npy(grey(0, 1, np.float64)[None]),
        npy(np.where(OBSERVED, 0.8, 0.3)),
        npy(grey(-1, 1, np.int8)),
    ],
)  # fmt: skip
def test_two_values_or_alpha_say_what_is_observed(data: bytes) -> None:
    assert (read_mask(data) == OBSERVED).all()


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_noise_of_jpeg_does_not_move_a_mask(quality: int) -> None:
    for kind in ("JPEG", "WEBP", "AVIF"):
        found = read_mask(encoded(Image.fromarray(FULL).convert("RGB"), kind, quality=quality))
        assert (found != OBSERVED).mean() < 0.01


def test_soft_edges_are_cut_halfway_between_the_two_areas() -> None:
    soft = Image.fromarray(FULL).resize((128, 128), Image.Resampling.BICUBIC)
    sharp = np.asarray(Image.fromarray(FULL).resize((128, 128), Image.Resampling.NEAREST)) > 0
    assert (read_mask(encoded(soft)) != sharp).mean() < 0.01
    blurred = (
        Image.fromarray(grey(0, 1) * np.uint8(100)).resize((256, 256)).filter(ImageFilter.GaussianBlur(4))
    )
    assert (read_mask(encoded(blurred)) == (np.asarray(blurred) > 50)).all()


def test_a_ramp_is_cut_at_half_of_white() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None], 64, 0)
    assert (read_mask(encoded(Image.fromarray(ramp))) == (ramp > 127)).all()
    assert (read_mask(npy(ramp / 255)) == (ramp > 127)).all()
    assert (read_mask(npy(ramp)) == (ramp > 127)).all()


def test_a_mask_of_single_pixels_is_read() -> None:
    pixels = np.random.default_rng(0).random((SIDE, SIDE)) < 0.3
    for data in (
        encoded(Image.fromarray(pixels)),
        encoded(Image.fromarray(pixels.astype(np.uint8))),
        npy(pixels),
    ):
        assert (read_mask(data) == pixels).all()


def classes(*values: int) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8), SIDE // len(values))[None].repeat(SIDE, 0)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (encoded(Image.fromarray(classes(0, 1, 2, 15))), "4 values or colours that fill areas, like the"),
        (encoded(Image.fromarray(classes(0, 1, 255, 0))), "3 values or colours that fill areas"),
        (encoded(Image.fromarray(classes(0, 128, 255, 0))), "3 values or colours that fill areas"),
        (encoded(Image.fromarray(classes(0, 128, 255, 0)), "JPEG", quality=95), "3 values or colours"),
        (encoded(Image.fromarray(classes(0, 1, 2, 1)).convert("RGB")), "3 values or colours that fill areas"),
        (npy(classes(0, 1, 2, 3)), "4 values or colours that fill areas"),
        (encoded(layers(classes(0, 255, 0, 255), FULL)), "its alpha and its brightness vary both"),
        (encoded(layers(255, classes(0, 128, 255, 0))), "3 values or colours that fill areas"),
        (encoded(indexed(0, 1, 76, 76, 76, 255, 0, 0)), "its colours are of one brightness"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.uint8))), "no pixel is observed"),
        (npy(np.linspace(0, 300, 64).reshape(8, 8)), "go from 0.0 to 300.0; allowed: 0 to 1, or 0 to 255"),
        (npy(np.zeros((0, 4))), "expected finite numbers (height, width)"),
        (b"no picture", "cannot decode the image"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_an_error_that_says_so(data: bytes, cause: str) -> None:
    with pytest.raises(ImageError) as error:
        read_mask(data)
    assert str(error.value).startswith("mask cannot be used: ") and cause in str(error.value)


def test_a_mask_of_the_photographs_own_size_is_fitted_with_it() -> None:
    """The hole stays over the same part of the picture, whichever way it is fitted."""
    own, size = (60, 90), (30, 30)
    mask = np.ones(own, bool)
    mask[20:40, 30:60] = False
    crop = fit_mask(mask, own, size, "crop")
    assert not crop[10:20, 8:22].any() and crop[:10].all() and crop[20:].all() and crop[:, :7].all()
    resize = fit_mask(mask, own, size, "resize")
    assert (~resize == np.pad(np.ones((10, 10), bool), 10)).all()
    pad = fit_mask(mask, own, size, "pad")
    assert pad[:5].all() and pad[25:].all(), "the bars are known to be black"
    assert not pad[13:17, 11:19].any() and pad[:, :9].all() and pad[:, 21:].all()
    assert fit_mask(pad, own, size, "crop") is pad
    with pytest.raises(ImageError, match="it has 30 x 31 pixels; allowed: 90 x 60 or 30 x 30"):
        fit_mask(np.ones((31, 30), bool), own, size, "crop")


def test_a_row_gets_its_mask_fitted_and_its_doubts(tmp_path: Path) -> None:
    given = {"operator": {"name": "inpainting", "mask": "given"}, "size": 16}
    config = job(tmp_path, tmp_path / "out", **given)
    image = encoded(picture(1, side=SIDE))
    found = prepare(InputRow("a", "s", image, mask=encoded(Image.fromarray(FULL))), config)
    assert found.mask is not None and found.mask.shape == (1, 16, 16) and found.doubt is None
    assert (found.mask[0].numpy() == OBSERVED[::2, ::2]).all()
    whole = prepare(InputRow("a", "s", image, mask=npy(np.ones((16, 16)))), config)
    assert whole.doubt == ALL_OBSERVED
    with pytest.raises(ImageError, match="no mask: this operator needs one in each row"):
        prepare(InputRow("a", "s", image), config)


def test_masks_that_are_hardly_meant_are_told_of() -> None:
    assert doubt(OBSERVED) is None
    assert doubt(HOLE) == MAYBE_INVERTED
    assert doubt(np.ones((4, 4), bool)) == ALL_OBSERVED
    few = np.zeros((9, 9), bool)
    few[::3, ::3] = True
    assert doubt(few) is None, "a tenth of the pixels, at the border too, is a mask as any"


CROSS = np.array([[0, 128, 0], [128, 255, 128], [0, 128, 0]])
CLEAR_CROSS = np.dstack([np.full((3, 3, 3), 255), CROSS]).astype(np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(CROSS.astype(np.uint8))),
        encoded(Image.fromarray((CROSS * 257).astype(np.uint16))),
        encoded(Image.fromarray(CLEAR_CROSS)),
        npy(CROSS),
    ],
)
def test_kernels_are_read_from_grey_alpha_and_arrays(tmp_path: Path, data: bytes) -> None:
    config = job(tmp_path, tmp_path / "out", operator="blur")
    found = prepare(InputRow("a", "s", encoded(picture(1)), kernel=data), config)
    assert found.kernel is not None and np.allclose(found.kernel[0] * CROSS.sum(), CROSS, atol=0.01)


def test_a_row_with_a_doubtful_mask_says_so(tmp_path: Path) -> None:
    given = {"operator": {"name": "inpainting", "mask": "given"}, "size": SIDE}
    rows = [
        InputRow(key, "s", encoded(picture(1, side=SIDE)), mask=npy(mask))
        for key, mask in (("right", OBSERVED), ("inverted", HOLE), ("whole", OBSERVED | HOLE))
    ]
    found = Restorer(job(tmp_path, tmp_path / "out", **given), ActorOptions("cpu", 4, 1))(rows)
    assert [(row["status"], row["warning"]) for row in found] == [
        ("ok", None),
        ("ok", MAYBE_INVERTED),
        ("ok", ALL_OBSERVED),
    ]
