"""How every kind of image file becomes RGB, and how it is brought to a size."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline import limits
from pipeline.pictures.images import ImageError, decode_image, encode_png, fit_image
from tests.pipeline.layouts import chunk
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


def test_sixteen_bit_colour_is_rounded_as_grey_is() -> None:
    values = np.array([[[0, 257 * 18 + 129, 65535]]], dtype=np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb")
    assert pixels(buffer.getvalue())[0, 0].tolist() == [0, 19, 255]
    assert pixels(bytes(imagecodecs.png_encode(values)))[0, 0].tolist() == [0, 19, 255]


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


def exif(*entries: tuple[int, int, int, int], behind: bytes = b"") -> bytes:
    """EXIF of these entries, each a tag, a type, a count and a value; orientation 6 is one of them."""
    entries = ((0x0112, 3, 1, 6 << 16), *entries)
    packed = b"".join(struct.pack(">HHII", *entry) for entry in sorted(entries))
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + packed + bytes(4) + behind


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize(
    "broken",
    [
        exif((0x011A, 5, 1, 60), (0x011B, 5, 1, 60), behind=struct.pack(">II", 72, 0) * 4),  # n / 0
        exif((0x011A, 10, 1, 60), behind=struct.pack(">ii", 72, -1) * 4),
        exif((0x011A, 5, 1, 0xFFFFFFF0)),  # a value beyond the end
        exif((0x8769, 4, 1, 0xFFFFFFF0), (0x8825, 4, 1, 8)),  # directories beyond the end, and in a loop
        exif((0x010F, 77, 9, 1)),  # a type there is not
    ],
)
def test_a_picture_with_broken_exif_is_kept_and_turned(kind: str, broken: bytes) -> None:
    assert decode_image(encoded(picture(1).resize((8, 4)), kind, exif=broken)).size == (4, 8)


@pytest.mark.parametrize("broken", [b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0", b"Exif\0\0" + bytes(100)])
def test_a_picture_whose_exif_cannot_be_read_is_kept_as_it_is(broken: bytes) -> None:
    for kind in ("JPEG", "WEBP", "PNG"):
        assert decode_image(encoded(picture(1).resize((8, 4)), kind, exif=broken)).size == (8, 4)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"prVt"])
def test_large_or_damaged_chunks_beside_the_pixels_of_a_png_lose_no_picture(kind: bytes) -> None:
    whole = encoded(RGB)
    noise = np.random.default_rng(0).integers(0, 256, 1_500_000).astype(np.uint8).tobytes()
    large = chunk(kind, b"name\0\0" + zlib.compress(noise))
    for extra in (large, large[:-4] + bytes(4)):
        assert (pixels(whole[:33] + extra + whole[33:]) == np.asarray(RGB)).all()


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_a_png_that_is_damaged_where_its_pixels_are_is_an_error_that_names_the_place(kind: bytes) -> None:
    palette = encoded(RGB.quantize(16), transparency=0)
    place = palette.index(kind)
    damaged = palette[: place + 5] + bytes([palette[place + 5] ^ 1]) + palette[place + 6 :]
    with pytest.raises(ImageError, match=f"the PNG file is damaged, the CRC of its chunk b'{kind.decode()}'"):
        decode_image(damaged)
    with pytest.raises(ImageError, match="the PNG file is cut short"):
        decode_image(palette[:-20])


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "no image: "),
        (
            b"<!DOCTYPE html>",
            "cannot decode the image: its 15 bytes are none of JPEG, PNG, WEBP, TIFF, BMP, ",
        ),
        (b"<!DOCTYPE html>", "HEIF; they begin with b'<!DOCTYPE html>'"),
        (b"GIF89a, cut", "cannot decode the image: "),
        (encoded(RGB)[:200], "cannot decode the image: "),
        (encoded(RGB, "JPEG")[:300], "cannot decode the image: "),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "unsupported TIFF: a picture of floating-point pixels"),
    ],
)
def test_bad_bytes_are_errors_that_name_their_cause(data: bytes, cause: str) -> None:
    with pytest.raises(ImageError) as error:
        decode_image(data)
    assert cause in str(error.value)


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
