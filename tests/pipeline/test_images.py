"""How every kind of image file becomes RGB, and how it is brought to a size."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline import limits
from pipeline.images import ImageError, decode_image, encode_png, fit_image
from tests.pipeline.small_jobs import encoded, picture

RGB = picture(3, side=24)


def pixels(data: bytes) -> np.ndarray:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def claiming(width: int, height: int, data: bytes) -> bytes:
    """A PNG whose header claims another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_lossless_files_keep_every_pixel(kind: str) -> None:
    assert (
        pixels(encoded(RGB, kind, **({"lossless": True} if kind == "WEBP" else {}))) == np.asarray(RGB)
    ).all()


def test_jpeg_is_read() -> None:
    assert np.abs(pixels(encoded(RGB, "JPEG", quality=95, subsampling=0)) - np.asarray(RGB)).mean() < 2


def test_grey_is_copied_to_the_channels() -> None:
    grey = RGB.convert("L")
    assert (pixels(encoded(grey)) == np.asarray(grey)[..., None]).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257 * 100, 65535, 300]], dtype=np.uint16)
    assert pixels(encoded(Image.fromarray(values)))[0, :, 0].tolist() == [0, 100, 255, 1]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values)
    assert pixels(buffer.getvalue())[0, :, 2].tolist() == [0, 100, 255, 1]


def test_sixteen_bit_colour_keeps_the_high_byte() -> None:
    values = np.array([[[0, 0x1234, 0xFFFF]]], dtype=np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb")
    assert pixels(buffer.getvalue())[0, 0].tolist() == [0, 0x12, 0xFF]


def test_palettes_are_looked_up() -> None:
    palette = RGB.quantize(16)
    assert (pixels(encoded(palette)) == np.asarray(palette.convert("RGB"))).all()


def test_alpha_is_laid_over_white() -> None:
    half = Image.new("RGBA", (1, 1), (200, 100, 0, 128))
    clear = Image.new("RGBA", (1, 1), (200, 100, 0, 0))
    assert np.abs(pixels(encoded(half))[0, 0] - [227, 177, 127]).max() <= 1
    assert pixels(encoded(clear))[0, 0].tolist() == [255, 255, 255]
    assert pixels(encoded(Image.new("LA", (1, 1), (7, 0))))[0, 0].tolist() == [255, 255, 255]
    see_through = Image.new("P", (1, 1))
    assert pixels(encoded(see_through, transparency=0))[0, 0].tolist() == [255, 255, 255]


def test_cmyk_is_converted() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert np.abs(pixels(encoded(cyan, "TIFF"))[0, 0] - [0, 255, 255]).max() <= 1
    assert np.abs(pixels(encoded(cyan, "JPEG"))[0, 0] - [0, 255, 255]).max() <= 2


def test_an_exif_rotation_turns_the_image_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    sideways = encoded(Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3)), exif=exif)
    assert (pixels(sideways) == np.rot90(np.arange(24).reshape(2, 4, 3), -1)).all()


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "no image: "),
        (b"GIF89a not allowed", "cannot decode the image: its 18 bytes are none of JPEG, PNG, WEBP, TIFF"),
        (encoded(RGB)[:200], "cannot decode the image: "),
        (encoded(RGB, "JPEG")[:300], "cannot decode the image: "),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "unsupported pixel type: "),
    ],
)
def test_bad_bytes_are_errors_that_name_their_cause(data: bytes, cause: str) -> None:
    with pytest.raises(ImageError) as error:
        decode_image(data)
    assert str(error.value).startswith(cause)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="image too large"):
        decode_image(claiming(30_000, 30_000, encoded(RGB)))
    monkeypatch.setattr(limits, "IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="24 x 24 pixels; at most 100"):
        decode_image(encoded(RGB))


def test_fits_are_as_stated() -> None:
    wide = Image.fromarray(
        np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], 12, 0).repeat(3, 2)
    )
    crop, resize, pad = (np.asarray(fit_image(wide, (12, 12), fit)) for fit in ("crop", "resize", "pad"))
    assert crop.shape == resize.shape == pad.shape == (12, 12, 3)
    assert (crop == np.asarray(wide)[:, 6:18]).all(), "the middle is kept"
    assert resize[0, 0, 0] < 10 and resize[0, -1, 0] > 220, "the whole width is there"
    assert (pad[:3] == 0).all() and (pad[-3:] == 0).all() and pad[6, -1, 0] > 220, "bars above and below"
    assert fit_image(wide, None, "crop") is wide


def test_stored_images_are_lossless() -> None:
    array = np.asarray(RGB)
    assert (pixels(encode_png(array)) == array).all()
