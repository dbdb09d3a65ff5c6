"""JPEG 2000 files of more than 8 bits to images; Pillow's own reading of them turns white into black."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
from PIL import Image

from pipeline.pictures.pixels import ImageError, check_pixels, to_image

STARTS = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_SIZE = b"\xff\x4f\xff\x51"  # the markers that a codestream begins with; its sizes follow
_PALETTE, _COLOURS = b"pclr", b"colr\x01"  # boxes of a .jp2 file; the latter names its colours by number
_SRGB, _GREY = 16, 17
MEND = "save it with 8 bits, or as PNG"


def read_deep(data: bytes) -> Image.Image | None:
    """The picture of a JPEG 2000 file of 9 to 16 bits; None for one of fewer.

    Raises ImageError for what is no grey or RGB picture of unsigned integers, with or without alpha, or too
    large, and what OpenJPEG raises for a damaged file.
    """
    start = data.find(_SIZE)
    if start < 0:
        raise ImageError("cannot decode the image: the JPEG 2000 file has no codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (count,) = struct.unpack_from(">H", data, start + 40)
    parts = set(
        struct.iter_unpack("3B", data[start + 42 : start + 42 + 3 * count])
    )  # depth, steps across, down
    check_pixels(right - left, bottom - top)
    if all(depth & 0x7F < 8 for depth, _, _ in parts):
        return None
    depths = {depth + 1 for depth, _, _ in parts}
    white = 2 ** max(depths) - 1
    if len(parts) > 1 or white > 65535 or count > 4 or parts != {(max(depths) - 1, 1, 1)}:
        raise ImageError(
            f"unsupported JPEG 2000: {count} components with signs, more than 16 bits or sizes apart; {MEND}"
        )
    boxes = data[:start]
    named = boxes.find(_COLOURS)
    colours = struct.unpack_from(">I", boxes, named + 7)[0] if named >= 0 else None
    if _PALETTE in boxes or colours not in (None, _SRGB, _GREY):
        raise ImageError(f"unsupported JPEG 2000: deep colours that are neither sRGB nor grey; {MEND}")
    values = imagecodecs.jpeg2k_decode(data)
    return to_image(np.asarray(values, np.uint16).reshape(*values.shape[:2], -1), white)
