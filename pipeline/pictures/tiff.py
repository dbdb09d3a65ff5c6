"""TIFF files to images.

tifffile reads the plain and losslessly compressed ones, of which Pillow mistakes some. JPEG and fax are left
to libtiff, which bounds what they cost, by way of Pillow.
"""

from __future__ import annotations

import io
import logging
import math
from enum import IntEnum

import numpy as np
import tifffile
from PIL import Image

from pipeline import limits
from pipeline.pictures.pixels import ImageError, check_pixels, scaled, to_image

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6  # PhotometricInterpretation
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}  # samples of a pixel
ASSOCIATED, UNASSOCIATED, COREL = 1, 2, 999  # ExtraSamples that are alpha
MOST_SAMPLES = 6
# Codecs that give no more bytes than they are asked for: none, LZW, deflate twice, packbits, zstd.
BOUNDED = {1, 5, 8, 32946, 32773, 50000}
FAX = {2, 3, 4}
JPEG = {6, 7}
MEND = "save it as 8 or 16-bit grey or RGB, without compression or with LZW, deflate, zstd or JPEG"

logging.getLogger("tifffile").disabled = True  # what matters raises


def read(data: bytes) -> tuple[Image.Image, object]:
    """The picture of a TIFF file's first page, and its orientation as EXIF counts them.

    Raises ImageError for what is no grey, palette, RGB, CMYK or YCbCr picture of unsigned integers of 1 to 16
    bits, or too large, and what the readers raise for a damaged file.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        _check_cost(page)
        _check_kind(page)
        if page.compression in FAX | JPEG:
            _check_for_libtiff(page)
            with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
                image.load()  # Pillow turns it upright
                return image, 1
        if page.photometric == YCBCR:
            raise _not_read("in the colours YCBCR, not compressed as JPEG")
        if page.compression not in BOUNDED:
            raise _not_read(f"compressed as {_name(tifffile.COMPRESSION, page.compression)}")
        return _picture(page, _values(page)), page.tags.valueof("Orientation", 1)


def _check_cost(page: tifffile.TiffPage) -> None:
    """Raises ImageError where decoding would cost more than any honest picture does."""
    check_pixels(page.imagewidth, page.imagelength)
    check_pixels(page.tilewidth, page.tilelength)  # a tile is decoded whole, however small the picture
    if page.samplesperpixel > MOST_SAMPLES:
        raise _not_read(f"of {page.samplesperpixel} bands")
    if len(page.dataoffsets) > limits.TIFF_PARTS:
        raise ImageError(
            f"image too costly: a TIFF of {len(page.dataoffsets):,} strips or tiles; "
            f"at most {limits.TIFF_PARTS:,}"
        )


def _check_kind(page: tifffile.TiffPage) -> None:
    """Raises ImageError for pixels whose colours the file does not state, or states in a way not known."""
    bits, photometric = page.bitspersample, page.photometric
    if page.sampleformat not in (1, 4):  # unsigned, or not stated
        kinds = {2: "signed", 3: "floating-point"}
        raise _not_read(f"of {kinds.get(page.sampleformat, 'complex')} pixels, which have no stated white")
    if not isinstance(bits, int) or not 1 <= bits <= 16:
        raise _not_read(f"of {bits}-bit pixels")
    if photometric not in COLOURS:
        raise _not_read(f"in the colours {_name(tifffile.PHOTOMETRIC, photometric)}")
    if photometric == CMYK and page.tags.valueof("InkSet", 1) != 1:
        raise _not_read("in inks that are not CMYK")
    if page.samplesperpixel < COLOURS[photometric]:
        raise _not_read(
            f"of {page.samplesperpixel} bands in the colours {_name(tifffile.PHOTOMETRIC, photometric)}"
        )
    extra, alpha = page.samplesperpixel - COLOURS[photometric], _alpha(page)
    if extra and alpha is None and photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        raise _not_read(f"of {page.samplesperpixel} bands, of which the file calls one grey and none alpha")
    if alpha and (photometric == CMYK or (photometric in (WHITE_IS_ZERO, PALETTE) and alpha == ASSOCIATED)):
        raise _not_read("with alpha that has no stated meaning for its colours")
    if page.imagedepth > 1:
        raise _not_read(f"of {page.imagedepth} layers")
    if page.is_reduced:
        raise _not_read("whose first page is a preview of another picture")


def _check_for_libtiff(page: tifffile.TiffPage) -> None:
    plain = page.samplesperpixel == COLOURS[page.photometric] and page.photometric != PALETTE
    if page.bitspersample != (1 if page.compression in FAX else 8) or not plain:
        raise _not_read(
            f"of {page.samplesperpixel} {page.bitspersample}-bit bands in the colours "
            f"{_name(tifffile.PHOTOMETRIC, page.photometric)}, "
            f"compressed as {_name(tifffile.COMPRESSION, page.compression)}"
        )


def _values(page: tifffile.TiffPage) -> np.ndarray:
    """Unsigned integers (H, W, samples) as they are stored."""
    across = math.ceil(page.imagewidth / page.tilewidth) if page.is_tiled else 1
    down = math.ceil(page.imagelength / (page.tilelength if page.is_tiled else page.rowsperstrip))
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    counts = page.databytecounts[: across * down * planes]
    if len(counts) < across * down * planes or 0 in counts:  # would be read as black
        raise ImageError("cannot decode the image: the TIFF file lacks some of its strips or tiles")
    values = page.asarray(squeeze=False, maxworkers=1)[:, 0]  # (planes, H, W, samples of a plane)
    values = values[..., 0].transpose(1, 2, 0) if planes > 1 else values[0]
    return np.ascontiguousarray(values, np.uint8 if page.bitspersample <= 8 else np.uint16)


def _picture(page: tifffile.TiffPage, values: np.ndarray) -> Image.Image:
    white = 2**page.bitspersample - 1
    count = COLOURS[page.photometric]
    colour, alpha = values[..., :count], values[..., count : count + 1]
    if page.photometric == WHITE_IS_ZERO:
        colour = white - colour
    if page.photometric == PALETTE:
        colour, alpha, white = _looked_up(page, colour[..., 0]), scaled(alpha, white, 255), 255
    kind = _alpha(page)
    if page.photometric == CMYK:
        return Image.fromarray(scaled(colour, white, 255), "CMYK")
    if kind is None:
        return to_image(np.ascontiguousarray(colour), white)
    image = to_image(np.concatenate((colour, alpha), axis=2), white)
    if kind == ASSOCIATED:  # the colours are multiplied by it
        return Image.frombytes(image.mode.replace("A", "a"), image.size, image.tobytes()).convert(image.mode)
    return image


def _alpha(page: tifffile.TiffPage) -> int | None:
    """The kind of the first band after the colours; RGB with one band more and no word on it has alpha."""
    extra = page.samplesperpixel - COLOURS[page.photometric]
    kinds = page.extrasamples or ((UNASSOCIATED,) if page.photometric == RGB and extra == 1 else ())
    return kinds[0] if extra and kinds and kinds[0] in (ASSOCIATED, UNASSOCIATED, COREL) else None


def _looked_up(page: tifffile.TiffPage, indices: np.ndarray) -> np.ndarray:
    colours = np.asarray(page.colormap).T
    if colours.max() > 255:  # 16 bits, as the format has it; some writers store 8
        colours = scaled(np.ascontiguousarray(colours), 65535, 255)
    return colours.astype(np.uint8)[indices]


def _not_read(what: str) -> ImageError:
    return ImageError(f"unsupported TIFF: a picture {what}; {MEND}")


def _name(names: type[IntEnum], value: int) -> str:
    return next((one.name for one in names if one == value), str(value))
