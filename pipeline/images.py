"""Encoded images to RGB pictures, and back.

How each kind of image becomes RGB, 8 bits a channel:

| image            | rule |
|------------------|------|
| EXIF orientation | the image is turned upright |
| grey             | copied to the three channels |
| palette          | looked up |
| alpha            | laid over white, palette transparency included |
| CMYK             | Pillow's plain conversion, colour profiles are not applied |
| 16-bit grey      | divided by 257 and rounded, so that 65535 becomes 255 |
| 16-bit colour    | the high byte of each channel |
| several frames   | the first one |
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from pipeline import limits
from pipeline.messages import describe

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff"),
    *(".bmp", ".gif", ".jp2", ".j2k", ".avif", ".heic", ".heif"),
)
"""Endings, in any case, of names that are pictures to everyone; a format not decoded gives an error row."""

HEAD = 32  # bytes of a file that tell a picture
_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF87a", b"GIF89a"),
    *(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),  # JPEG 2000
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes
GREY_AT_ONCE = 2**20  # pixels; arithmetic on all of a large picture would take many times its memory
TILE_WIDTH, TILE_LENGTH = 322, 323  # TIFF tags

Fit = Literal["crop", "resize", "pad"]


class ImageError(ValueError):
    """An image that cannot be used; the message names the cause first, then the details after a colon."""


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
    """Decodes a JPEG, PNG, WebP or TIFF file to an RGB image by the rules at the top of this file.

    Raises ImageError for bytes that are no such image, are cut short, or are beyond a limit of `limits`.
    """
    if not data:
        raise ImageError("no image: the row's bytes are empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters raises, and bombs are refused below
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_cost(image, data)
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"image too large: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"cannot decode the image: its {len(data)} bytes are none of {', '.join(FORMATS)}"
        ) from error
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ValueError, ...
        raise ImageError(f"cannot decode the image: {describe(error)}") from error


def _check_cost(image: Image.Image, data: bytes) -> None:
    """Raises ImageError where decoding would cost more than any honest picture does."""
    sizes = [image.size]
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # a tile is decoded whole, however small the picture
        sizes.append((image.tag_v2.get(TILE_WIDTH, 0), image.tag_v2.get(TILE_LENGTH, 0)))
    for width, height in sizes:
        if width * height > limits.IMAGE_PIXELS:
            raise ImageError(f"image too large: {width} x {height} pixels; at most {limits.IMAGE_PIXELS:,}")
    if data.startswith(b"\xff\xd8") and _has_more_scans(data, limits.JPEG_SCANS):
        raise ImageError(f"image too costly: a JPEG of more than {limits.JPEG_SCANS} scans")


_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # of a JPEG segment; those without a length left out


def _has_more_scans(data: bytes, most: int) -> bool:
    position, scans = 2, 0
    while scans <= most and (marker := _MARKER.search(data, position)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        position = marker.end() + length
    return scans > most


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).ravel()
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ImageError(
                f"unsupported pixel range: grey values {values.min()} to {values.max()}; allowed: 0 to 65535"
            )
        grey = np.empty(len(values), np.uint8)
        for start in range(0, len(values), GREY_AT_ONCE):
            part = slice(start, start + GREY_AT_ONCE)
            grey[part] = np.rint(values[part] / 257)
        return Image.fromarray(grey.reshape(image.height, image.width)).convert("RGB")
    if image.mode == "F":
        raise ImageError(
            "unsupported pixel type: floating-point pixels have no stated range; store 8 or 16 bits"
        )
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def fit_image(image: Image.Image, size: tuple[int, int] | None, fit: Fit) -> Image.Image:
    """Brings an image to `size` = (height, width); None leaves it as it is.

    crop: scaled until it covers the size, the middle kept. resize: stretched, proportions change.
    pad: scaled until it is inside the size, centred on black. Scaling is Lanczos.

    Raises ImageError where padding would leave less than a pixel of the image's shorter side.
    """
    if size is None or (image.height, image.width) == size:
        return image
    target = (size[1], size[0])
    if fit == "crop":
        return ImageOps.fit(image, target, Image.Resampling.LANCZOS)
    if fit == "resize":
        return image.resize(target, Image.Resampling.LANCZOS)
    shorter = min(image.size) * min(size[0] / image.height, size[1] / image.width)
    if round(shorter) < 1:
        raise ImageError(
            f"image too thin: {image.width} x {image.height} pixels padded to {size[1]} x {size[0]} would "
            "vanish; set `fit` to crop or resize, or cut the image"
        )
    return ImageOps.pad(image, target, Image.Resampling.LANCZOS, color="black")


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) to a PNG file, lossless."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()
