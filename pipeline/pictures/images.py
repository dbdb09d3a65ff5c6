"""Encoded images to RGB pictures, and back.

How each kind of image becomes RGB, 8 bits a channel:

| image            | rule |
|------------------|------|
| EXIF orientation | the image is turned upright; what cannot be read of EXIF is passed over |
| grey             | copied to the three channels |
| palette          | looked up |
| alpha            | laid over white, palette and colour-key transparency included |
| CMYK             | Pillow's plain conversion |
| 9 to 16 bits     | scaled to 255 and rounded: 16-bit values are divided by 257 |
| AVIF, HEIC of more than 8 bits | as their decoders give 8 bits |
| 1 to 7 bits      | scaled to 255 |
| min-is-white     | inverted |
| colour profiles, gamma | not applied |
| several frames   | the first one |
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from typing import Literal

import numpy as np
import pi_heif
from PIL import Image, ImageOps

from pipeline import limits
from pipeline.messages import describe
from pipeline.pictures import jpeg2000, png, tiff
from pipeline.pictures.pixels import ImageError, check_pixels, scaled

pi_heif.register_heif_opener()

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF", "HEIF")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff"),
    *(".bmp", ".gif", ".jp2", ".j2k", ".avif", ".heic", ".heif"),
)
"""Endings, in any case, of names that are pictures to everyone; a format not decoded gives an error row."""

_BY_PILLOW = tuple(name for name in FORMATS if name not in ("PNG", "TIFF"))

HEAD = 32  # bytes of a file that tell a picture
_STARTS = (
    *(b"\xff\xd8\xff", b"GIF87a", b"GIF89a", png.SIGNATURE),
    *(*tiff.STARTS, *jpeg2000.STARTS),
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes

_Turn = Image.Transpose
_TURNS = {  # EXIF orientation: what turns the picture upright
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}

Fit = Literal["crop", "resize", "pad"]


def looks_like_image(head: bytes) -> bool:
    """Whether a file is a picture of the formats in `SUFFIXES` by its first `HEAD` bytes."""
    if head.startswith(_STARTS):
        return True
    if head.startswith(b"BM"):  # which text may begin with, too
        return int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


def decode_image(data: bytes) -> Image.Image:
    """Decodes a file of one of `FORMATS` to an upright RGB image, by the rules at the top of this file.

    Raises ImageError for bytes that are no such image, are cut short, or are beyond a limit of `limits`.
    """
    return on_white(open_image(data)).convert("RGB")


def open_image(data: bytes) -> Image.Image:
    """Decodes a file to an upright image in Pillow's mode for it: L, I;16 (65535 is white), P, RGBA, ...

    Raises ImageError as `decode_image` does.
    """
    if not data:
        raise ImageError("no image: the row's bytes are empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters raises, and bombs are refused below
            image, orientation = _read(data)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"image too large: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"cannot decode the image: its {len(data):,} bytes are none of {', '.join(FORMATS)}; "
            f"they begin with {data[:16]!r}"
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError, ...
        raise ImageError(f"cannot decode the image: {describe(error)}") from error
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _read(data: bytes) -> tuple[Image.Image, object]:
    """A picture, and its EXIF orientation, which may be anything."""
    if data.startswith(png.SIGNATURE):
        return png.read(data)
    if data.startswith(tiff.STARTS):
        return tiff.read(data)
    if data.startswith(jpeg2000.STARTS) and (deep := jpeg2000.read_deep(data)) is not None:
        return deep, 1
    with Image.open(io.BytesIO(data), formats=_BY_PILLOW) as image:
        check_pixels(*image.size)
        if data.startswith(b"\xff\xd8") and _has_more_scans(data, limits.JPEG_SCANS):
            raise ImageError(f"image too costly: a JPEG of more than {limits.JPEG_SCANS} scans")
        image.load()
        with contextlib.suppress(Exception):  # the picture is whole, whatever its EXIF is
            return image, image.getexif().get(png.ORIENTATION, 1)
        return image, 1


_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # of a JPEG segment; those without a length left out


def _has_more_scans(data: bytes, most: int) -> bool:
    position, scans = 2, 0
    while scans <= most and (marker := _MARKER.search(data, position)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        position = marker.end() + length
    return scans > most


def on_white(image: Image.Image) -> Image.Image:
    """An image of 8 bits a channel, without alpha."""
    if image.mode == "I;16":
        return Image.fromarray(scaled(np.asarray(image), 65535, 255))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def fit_image(
    image: Image.Image,
    size: tuple[int, int] | None,
    fit: Fit,
    scaling: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Brings an image to `size` = (height, width); None leaves it as it is.

    crop: scaled until it covers the size, the middle kept. resize: stretched, proportions change.
    pad: scaled until it is inside the size, centred on black.

    Raises ImageError where padding would leave less than a pixel of the image's shorter side.
    """
    if size is None or (image.height, image.width) == size:
        return image
    target = (size[1], size[0])
    if fit == "crop":
        return ImageOps.fit(image, target, scaling)
    if fit == "resize":
        return image.resize(target, scaling)
    shorter = min(image.size) * min(size[0] / image.height, size[1] / image.width)
    if round(shorter) < 1:
        raise ImageError(
            f"image too thin: {image.width} x {image.height} pixels padded to {size[1]} x {size[0]} would "
            "vanish; set `fit` to crop or resize, or cut the image"
        )
    return ImageOps.pad(image, target, scaling, color="black")


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) to a PNG file, lossless."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()
