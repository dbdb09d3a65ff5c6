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
import warnings
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
MAX_PIXELS = (
    64_000_000  # beyond any image a latent model restores; a file that claims more is taken for a bomb
)

Fit = Literal["crop", "resize", "pad"]


class ImageError(ValueError):
    """An image that cannot be used; the message names the cause first, then the details after a colon."""


def decode_image(data: bytes) -> Image.Image:
    """Decodes a JPEG, PNG, WebP or TIFF file to an RGB image by the rules at the top of this file.

    Raises ImageError for bytes that are no such image, are cut short, or claim more than MAX_PIXELS.
    """
    if not data:
        raise ImageError("no image: the row's bytes are empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(
                        f"image too large: {image.width} x {image.height} pixels; at most {MAX_PIXELS:,}"
                    )
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
        raise ImageError(f"cannot decode the image: {str(error) or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.int64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ImageError(
                f"unsupported pixel range: grey values {values.min()} to {values.max()}; allowed: 0 to 65535"
            )
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
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
    """
    if size is None or (image.height, image.width) == size:
        return image
    target = (size[1], size[0])
    if fit == "crop":
        return ImageOps.fit(image, target, Image.Resampling.LANCZOS)
    if fit == "resize":
        return image.resize(target, Image.Resampling.LANCZOS)
    return ImageOps.pad(image, target, Image.Resampling.LANCZOS, color="black")


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) to a PNG file, lossless."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()
