"""PNG files to images: libpng decodes the chunks of the picture; others are never opened."""

from __future__ import annotations

import contextlib
import struct
import zlib

import imagecodecs
import numpy as np
from PIL import Image

from pipeline.pictures.pixels import ImageError, check_pixels, to_image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # EXIF tag
_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_ANCILLARY = 0x20  # the bit of a chunk's first letter that says that a picture can be shown without it


def read(data: bytes) -> tuple[Image.Image, object]:
    """The picture of a PNG file, palette and transparency applied, and its EXIF orientation, 1 for none.

    Raises ImageError for a file that is cut short, damaged where the picture is, or too large, and what
    libpng raises.
    """
    kept: list[bytes] = [SIGNATURE]
    orientation: object = 1
    position = len(SIGNATURE)
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        if kind == b"IEND":
            break
        if end > len(data):
            raise ImageError("cannot decode the image: the PNG file is cut short")
        if kind == b"tRNS" or not kind[0] & _ANCILLARY:
            _check_sum(data[position:end])
            kept.append(data[position:end])
        elif kind == b"eXIf":
            orientation = _orientation(data[position + 8 : end - 4])
        position = end
    if len(kept) == 1 or kept[1][4:8] != b"IHDR" or len(kept[1]) != 25:
        raise ImageError("cannot decode the image: the PNG file does not begin with its header, IHDR")
    check_pixels(*struct.unpack(">II", kept[1][8:16]))
    values = imagecodecs.png_decode(b"".join((*kept, _END)))
    return to_image(values.reshape(*values.shape[:2], -1), np.iinfo(values.dtype).max), orientation


def _check_sum(chunk: bytes) -> None:
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        raise ImageError(
            f"cannot decode the image: the PNG file is damaged, the CRC of its chunk {chunk[4:8]!r} is wrong"
        )


def _orientation(exif: bytes) -> object:
    found = Image.Exif()
    with contextlib.suppress(Exception):  # the picture is whole, whatever its EXIF is
        found.load(exif)
        return found.get(ORIENTATION, 1)
    return 1
