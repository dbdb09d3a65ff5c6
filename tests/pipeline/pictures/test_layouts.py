"""Every mode and layout of pixels that is accepted, against what the file was made of or another decoder."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.pictures.images import ImageError, decode_image
from tests.pipeline.layouts import bmp, bmp_rows, chunk, packed, png, tiff
from tests.pipeline.small_jobs import encoded

HEIGHT, WIDTH = 21, 35  # neither divides into tiles of 16
RANDOM = np.random.default_rng(0)
Y, X = np.mgrid[:HEIGHT, :WIDTH]
WAVES = np.stack(
    [(np.sin(X / 9 + channel) + np.cos(Y / 7 + 2 * channel) + 2) / 4 for channel in range(5)], -1
)

GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6  # PNG's colour types
GREY_ALPHA = 4


def stored(channels: int, bits: int) -> np.ndarray:
    """A picture (H, W, channels) in whole numbers of `bits` bits."""
    return np.rint(WAVES[..., :channels] * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def colour(shares: np.ndarray) -> np.ndarray:
    """Grey or RGB from 0 to 1, as RGB from 0 to 255."""
    return np.repeat(shares, 3, axis=2) * 255 if shares.shape[2] == 1 else shares * 255


def over_white(rgb: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    return rgb * alpha + 255 * (1 - alpha)


def furthest(data: bytes, truth: np.ndarray) -> float:
    """The largest difference of a decoded file to what it holds, in levels of 255."""
    found = np.asarray(decode_image(data)).astype(float)
    assert found.shape == truth.shape
    return float(np.abs(found - truth).max())


# ------------------------------------------------------------------------------------------------ TIFF

MINISWHITE, MINISBLACK, SEPARATED = 0, 1, 5
COLOURS = {MINISWHITE: 1, MINISBLACK: 1, RGB: 3, PALETTE: 1, SEPARATED: 4}


@pytest.mark.parametrize("photometric", COLOURS)
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_tiff_of_every_depth(photometric: int, extra: int | None) -> None:
    """extra: how TIFF calls one more band: no meaning, alpha that colours are multiplied by, alpha."""
    count = COLOURS[photometric]
    for bits, order, planar in itertools.product((1, 2, 4, 7, 8, 12, 16), "<>", (1, 2)):
        values = stored(count + (extra is not None), bits)
        shares = values / (2**bits - 1)
        tags: dict[int, tuple[str, list[int]]] = {258: ("H", [bits] * values.shape[2]), 259: ("H", [1])}
        tags |= {262: ("H", [photometric]), 277: ("H", [values.shape[2]]), 284: ("H", [planar])}
        if extra is not None:
            tags[338] = ("H", [extra])
        map_of_colours = RANDOM.integers(0, 65536, (3, 2**bits))
        if photometric == PALETTE:
            tags[320] = ("H", map_of_colours.ravel().tolist())
        planes = [values] if planar == 1 else np.moveaxis(values, 2, 0)
        strips = [b"".join(packed(plane, bits, order)) for plane in planes]
        data = tiff(WIDTH, HEIGHT, tags, strips, order)
        truth = colour(shares[..., :3] if count == 3 else shares[..., :1])
        if photometric == MINISWHITE:
            truth = 255 - truth
        elif photometric == PALETTE:
            truth = map_of_colours.T[values[..., 0]] / 257
        elif photometric == SEPARATED:
            truth = 255 * (1 - shares[..., :3]) * (1 - shares[..., 3:4])
        if extra == 2:
            truth = over_white(truth, shares[..., -1:])
        elif extra == 1:
            truth = np.clip(truth + 255 * (1 - shares[..., -1:]), 0, 255)
        no_picture = (
            (extra == 0 and photometric in (MINISBLACK, MINISWHITE))
            or (extra == 1 and photometric in (MINISWHITE, PALETTE))
            or (extra in (1, 2) and photometric == SEPARATED)
        )
        if no_picture:
            with pytest.raises(ImageError, match="unsupported TIFF: a picture .*; save it as"):
                decode_image(data)
        else:
            most = {None: 0.51, 0: 0.51, 1: 3, 2: 1.3}[extra] + (photometric == SEPARATED)
            assert furthest(data, truth) <= most, (bits, order, planar)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "adobe_deflate", "packbits", "zstd"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_of_every_lossless_compression(compression: str, planar: str) -> None:
    layouts: tuple[dict[str, Any], ...] = ({}, {"tile": (16, 16)}, {"rowsperstrip": 4}, {"bigtiff": True})
    for kind, predictor, order, layout in itertools.product(
        (np.uint8, np.uint16), (False, True), "<>", layouts
    ):
        values = stored(3, np.iinfo(kind).bits)
        options = layout | {"predictor": predictor, "byteorder": order, "planarconfig": planar}
        file = io.BytesIO()
        arranged = values if planar == "contig" else np.moveaxis(values, 2, 0)
        tifffile.imwrite(file, arranged, photometric="rgb", compression=compression, **options)
        assert furthest(file.getvalue(), values / np.iinfo(kind).max * 255) <= 0.51, (kind, options)


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        *(("1", name) for name in ("tiff_ccitt", "group3", "group4")),
        *((mode, "jpeg") for mode in ("L", "RGB", "CMYK", "YCbCr")),
    ],
)
def test_tiff_of_fax_and_jpeg(mode: str, compression: str) -> None:
    rgb = Image.fromarray(stored(3, 8))
    data = encoded(rgb.convert(mode), "TIFF", compression=compression)
    other = tifffile.imread(io.BytesIO(data))
    if mode == "CMYK":
        ink = other / 255
        other = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    elif mode == "1":
        other = other * 255.0
    assert furthest(data, other if other.ndim == 3 else np.repeat(other[..., None], 3, 2)) <= 2


def test_tiff_is_turned_upright_and_its_first_page_is_taken() -> None:
    values = stored(3, 16)
    for orientation, turned in {
        1: values,
        3: values[::-1, ::-1],
        6: np.rot90(values, -1),
        8: np.rot90(values),
    }.items():
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            writer.write(values, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
            writer.write(values[:5], photometric="rgb")
        assert furthest(file.getvalue(), turned / 257) <= 0.51
    sideways = encoded(Image.fromarray(stored(3, 8)), "TIFF", compression="jpeg", tiffinfo={274: 6})
    assert decode_image(sideways).size == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("pixels", "options", "what"),
    [
        (WAVES[..., :3].astype(np.float32), {"photometric": "rgb"}, "floating-point pixels"),
        (WAVES[..., 0].astype(np.float16), {}, "floating-point pixels"),
        (stored(1, 8)[..., 0].astype(np.int8), {}, "signed pixels"),
        (stored(1, 8)[..., 0].astype(np.int16), {}, "signed pixels"),
        (stored(1, 8)[..., 0].astype(np.uint32), {}, "32-bit pixels"),
        (
            stored(5, 8),
            {"photometric": "minisblack", "planarconfig": "contig"},
            "5 bands, of which the file calls",
        ),
        (
            np.moveaxis(stored(5, 8), 2, 0),
            {"photometric": "minisblack", "planarconfig": "separate"},
            "5 bands",
        ),
        (stored(3, 8), {"photometric": "cielab"}, "colours CIELAB"),
        (stored(3, 8), {"photometric": "ycbcr"}, "colours YCBCR"),
        (stored(1, 8)[..., 0], {"photometric": "cfa"}, "colours CFA"),
        (stored(3, 8), {"photometric": "rgb", "compression": "webp"}, "compressed as WEBP"),
        (stored(3, 8), {"photometric": "rgb", "subfiletype": 1}, "first page is a preview"),
    ],
)
def test_tiff_without_a_stated_picture_is_refused_by_what_it_is(
    pixels: np.ndarray, options: dict[str, Any], what: str
) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    with pytest.raises(
        ImageError, match=f"unsupported TIFF: a picture .*{what}.*; save it as 8 or 16-bit grey"
    ):
        decode_image(file.getvalue())


def test_tiff_with_a_mistaken_start_is_no_picture() -> None:
    """Pillow would take it, and by rules of its own."""
    file = io.BytesIO()
    tifffile.imwrite(file, stored(1, 16)[..., 0], photometric="miniswhite")
    with pytest.raises(ImageError, match="are none of JPEG, PNG"):
        decode_image(b"II\0*" + file.getvalue()[4:])


def test_tiff_that_lacks_strips_is_refused() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, stored(3, 8), photometric="rgb", rowsperstrip=2, compression="zlib")
    whole = file.getvalue()
    with tifffile.TiffFile(io.BytesIO(whole)) as read:
        counts = read.pages.first.tags["StripByteCounts"]
    empty = whole[: counts.valueoffset] + bytes(2) + whole[counts.valueoffset + 2 :]
    short = whole[: counts.offset + 4] + struct.pack("<I", counts.count - 1) + whole[counts.offset + 8 :]
    for data in (empty, short):
        with pytest.raises(ImageError, match="lacks some of its strips"):
            decode_image(data)


# ------------------------------------------------------------------------------------------------- PNG


@pytest.mark.parametrize("kind", [GREY, RGB, PALETTE, GREY_ALPHA, RGBA])
def test_png_of_every_depth_and_transparency(kind: int) -> None:
    depths = {GREY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8)}.get(kind, (8, 16))
    channels = {RGB: 3, GREY_ALPHA: 2, RGBA: 4}.get(kind, 1)
    for bits, clear in itertools.product(depths, (False, True)):
        values = RANDOM.integers(0, 2**bits, (HEIGHT, WIDTH, channels))
        shares, alpha, before = values / (2**bits - 1), np.float64(1), b""
        truth = colour(shares[..., : 3 if channels > 2 else 1])
        if kind == PALETTE:
            palette = RANDOM.integers(0, 256, (2**bits, 3))
            before, truth = chunk(b"PLTE", palette.astype(np.uint8).tobytes()), palette[values[..., 0]] * 1.0
        if kind in (GREY_ALPHA, RGBA):
            alpha = shares[..., -1:]
        elif clear and kind == PALETTE:
            alphas = RANDOM.integers(0, 256, 2**bits)
            before += chunk(b"tRNS", alphas.astype(np.uint8).tobytes())
            alpha = alphas[values] / 255
        elif clear:
            key = values[3, 4]
            before = chunk(b"tRNS", struct.pack(f">{channels}H", *key))
            alpha = (values != key).any(axis=2, keepdims=True).astype(float)
        data = png(values, bits, kind, before)
        assert furthest(data, over_white(truth, alpha)) <= (
            1.5 if bits == 16 and channels in (2, 4) else 0.51
        )


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_png_interlaced_and_with_a_stated_gamma_is_read_as_it_is(bits: int) -> None:
    values = RANDOM.integers(0, 2**bits, (HEIGHT, WIDTH, 1))
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
    assert furthest(png(values, bits, GREY, gamma, interlaced=True), colour(values / (2**bits - 1))) <= 0.51


# ------------------------------------------------------------------------------------------------- BMP


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_with_a_palette(bits: int) -> None:
    indices, palette = RANDOM.integers(0, 2**bits, (HEIGHT, WIDTH)), RANDOM.integers(0, 256, (2**bits, 3))
    rows = packed(indices, bits)
    assert furthest(bmp(WIDTH, HEIGHT, bits, bmp_rows(rows), palette=palette), palette[indices] * 1.0) == 0
    on_top = bmp(WIDTH, -HEIGHT, bits, bmp_rows(rows[::-1]), palette=palette)
    assert furthest(on_top, palette[indices] * 1.0) == 0


@pytest.mark.parametrize(("compression", "bits"), [(1, 8), (2, 4)])
def test_bmp_run_length_encoded(compression: int, bits: int) -> None:
    indices, palette = RANDOM.integers(0, 2**bits, (HEIGHT, 1)), RANDOM.integers(0, 256, (2**bits, 3))
    runs = b"".join(bytes([WIDTH, row[0] * (1 if bits == 8 else 17), 0, 0]) for row in indices[::-1])
    data = bmp(WIDTH, HEIGHT, bits, runs + b"\0\1", compression=compression, palette=palette)
    assert furthest(data, palette[np.repeat(indices, WIDTH, axis=1)] * 1.0) == 0


@pytest.mark.parametrize("masks", [(0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F)])
def test_bmp_of_sixteen_bits(masks: tuple[int, int, int]) -> None:
    values = RANDOM.integers(0, sum(masks) + 1, (HEIGHT, WIDTH))
    rows = [row.astype("<u2").tobytes() for row in values]
    truth = np.stack([(values & mask) / mask * 255 for mask in masks], axis=-1)
    assert furthest(bmp(WIDTH, HEIGHT, 16, bmp_rows(rows), compression=3, masks=masks), truth) <= 1


def test_bmp_of_24_and_32_bits() -> None:
    values = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)
    rgb, alpha = values[..., :3] * 1.0, values[..., 3:] / 255
    blue_first = values[..., [2, 1, 0, 3]]
    without = bmp_rows([row.tobytes() for row in blue_first[..., :3]])
    with_fourth = bmp_rows([row.tobytes() for row in blue_first])
    masks = (0xFF0000, 0xFF00, 0xFF)
    assert furthest(bmp(WIDTH, HEIGHT, 24, without), rgb) == 0
    assert furthest(bmp(WIDTH, HEIGHT, 32, with_fourth), rgb) == 0
    assert furthest(bmp(WIDTH, HEIGHT, 32, with_fourth, compression=3, masks=masks), rgb) == 0
    for header in (108, 124):
        clear = bmp(WIDTH, HEIGHT, 32, with_fourth, compression=3, masks=(*masks, 0xFF000000), header=header)
        assert furthest(clear, over_white(rgb, alpha)) <= 0.51


# ------------------------------------------------------------------- lossy formats, and those of many frames

PHOTO = Image.fromarray(stored(3, 8))
CLEAR = Image.fromarray(stored(4, 8))


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}, {"optimize": True}],
    ids=str,
)
def test_jpeg_in_grey_and_colour(options: dict[str, Any]) -> None:
    for picture in (PHOTO, PHOTO.convert("L")):
        data = encoded(picture, "JPEG", **(options if picture.mode == "RGB" else {}))
        other = imagecodecs.jpeg8_decode(data)
        assert furthest(data, other if other.ndim == 3 else np.repeat(other[..., None], 3, 2)) <= 1


def test_jpeg_in_inverted_cmyk() -> None:
    data = encoded(PHOTO.convert("CMYK"), "JPEG")
    paper = imagecodecs.jpeg8_decode(data) / 255  # Adobe's files hold how much ink is missing
    assert furthest(data, 255 * paper[..., :3] * paper[..., 3:]) <= 1
    assert np.abs(np.asarray(decode_image(data)).astype(float) - np.asarray(PHOTO)).mean() < 4


@pytest.mark.parametrize(
    ("kind", "decode"), [("WEBP", imagecodecs.webp_decode), ("AVIF", imagecodecs.avif_decode)]
)
def test_webp_and_avif_with_and_without_alpha(kind: str, decode: Any) -> None:
    choices: list[dict[str, Any]] = [{}, {"lossless": True}, {"quality": 30}]
    for picture, options in itertools.product((PHOTO, CLEAR), choices):
        data = encoded(picture, kind, **options)
        other = decode(data).astype(float)
        alpha = other[..., 3:] / 255 if other.shape[2] == 4 else 1.0
        assert furthest(data, over_white(other[..., :3], alpha)) <= 1


def test_avif_of_ten_bits() -> None:
    data = bytes(imagecodecs.avif_encode(stored(3, 10), bitspersample=10, level=100))
    assert furthest(data, imagecodecs.avif_decode(data) / 1023 * 255) <= 1


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_2000_of_every_depth(form: str, channels: int) -> None:
    """White is where Pillow turns deep pictures black; the pictures go from 0 to it."""
    for bits in (8, 9, 10, 12, 15, 16):
        top = 2**bits - 1
        values = np.repeat((X * top // (WIDTH - 1))[..., None], channels, axis=2)
        if channels in (2, 4):
            values[..., -1] = Y * top // (HEIGHT - 1)
        kind = np.uint8 if bits == 8 else np.uint16
        file = imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(values.squeeze().astype(kind)),
            bitspersample=bits,
            codecformat=form,
            level=0,
            reversible=True,
        )
        alpha = values[..., -1:] / top if channels in (2, 4) else 1.0
        truth = over_white(colour(values[..., : 3 if channels > 2 else 1] / top), alpha)
        assert furthest(bytes(file), truth) <= 1.3, bits


def test_gif_with_and_without_a_clear_colour() -> None:
    indices = Image.fromarray(RANDOM.integers(0, 7, (HEIGHT, WIDTH)).astype(np.uint8), "P")
    palette = RANDOM.integers(0, 256, (7, 3))
    indices.putpalette(palette.ravel().tolist())
    plain = palette[np.asarray(indices)].astype(float)
    assert furthest(encoded(indices, "GIF"), plain) == 0
    clear = np.where((np.asarray(indices) == 2)[..., None], 255, plain)
    assert furthest(encoded(indices, "GIF", transparency=2), clear) == 0
    moving = encoded(
        indices, "GIF", save_all=True, append_images=[indices.transpose(Image.Transpose.ROTATE_180)]
    )
    assert furthest(moving, plain) == 0


def test_heic_is_read_upright() -> None:
    """A file of 24 x 16 pixels, 10 x, 15 y, 255 - 10 x, that is to be turned by 90 degrees."""
    y, x = np.mgrid[:16, :24]
    truth = np.rot90(np.stack([10 * x, 15 * y, 255 - 10 * x], axis=-1), -1)
    assert furthest(Path(__file__).with_name("turned.heic").read_bytes(), truth) <= 2
