"""Masks as files have them, to what is observed.

| mask | what is observed |
|------|------------------|
| two values or colours, whichever (0 and 1, 0 and 255, a palette's) | the brighter |
| one value | all, unless it is 0 |
| more, two of which fill areas (soft edges, noise of JPEG) | what is nearer to the brighter of the two |
| more, fewer of which fill areas (ramps, fine patterns) | what is above half of white |
| more than two that fill areas (classes of a segmentation) | an error |
| alpha that varies, over one brightness | what is opaque |
| alpha and brightness that vary both | an error, unless they mean the same |

White is 255 for images, 65535 for those of 16 bits, and for arrays 1, or 255 where a number is above 1. A
palette is looked up, colours count by their brightness (ITU-R 601). A value fills areas where at least a
fiftieth of the mask are pixels of it whose neighbours are all equal to them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from pipeline.messages import describe
from pipeline.pictures.arrays import NPY, read_npy
from pipeline.pictures.images import Fit, fit_image, open_image
from pipeline.pictures.pixels import ImageError

AREA = 1 / 50  # of a mask, that a value fills
NEAR = 1 / 16  # of the range: what lossy formats and soft edges make of black and white
MANY = 32  # values; more come of soft edges and noise, not of classes
ONE_BRIGHTNESS = 64  # of 255: what soft edges make of one colour
LOSSY = (b"\xff\xd8", b"RIFF", b"\xff\x4f")  # how JPEG, WebP and JPEG 2000 begin
LOSSY_BOXES = (b"ftyp", b"jP  ")  # and AVIF, HEIC and .jp2, from their fifth byte on

ALL_OBSERVED = "mask without a hole: it observes every pixel, so nothing is left to inpaint"
MAYBE_INVERTED = (
    "mask may be inverted: it observes less than half of the picture and nothing at its border; "
    "white is what is observed"
)


def read_mask(data: bytes | None) -> np.ndarray:
    """An image or a .npy file to bool (height, width), True where observed. Raises ImageError."""
    if data is None:
        raise ImageError("no mask: this operator needs one in each row")
    try:
        mask = _from_array(read_npy(data)) if data.startswith(NPY) else _from_image(data)
    except Exception as error:  # NumPy's parser of headers raises ValueError, EOFError, SyntaxError, ...
        raise ImageError(f"mask cannot be used: {describe(error)}") from error
    if not mask.any():
        raise ImageError(
            "mask cannot be used: no pixel is observed, all are 0; white (255, or 1) is observed"
        )
    return mask


def fit_mask(mask: np.ndarray, own: tuple[int, int], size: tuple[int, int], fit: Fit) -> np.ndarray:
    """A mask of the job's `size` (height, width) as it is; one of the photograph's `own` size fitted with it.

    A pixel is observed where at least half of its area is; the bars of `pad` are, being known to be black.
    Raises ImageError for a mask of any other size.
    """
    if mask.shape == size:
        return mask
    if mask.shape != own:
        allowed = " or ".join(dict.fromkeys(f"{width} x {height}" for height, width in (own, size)))
        raise ImageError(
            f"mask cannot be used: it has {mask.shape[1]} x {mask.shape[0]} pixels; allowed: {allowed}, "
            "the picture's own size or the job's"
        )
    hole = Image.fromarray(np.where(mask, np.uint8(0), np.uint8(255)))
    return np.asarray(fit_image(hole, size, fit, Image.Resampling.BOX)) < 127.5


def doubt(mask: np.ndarray) -> str | None:
    """What speaks against a mask, "cause: details"; None where nothing does."""
    if mask.all():
        return ALL_OBSERVED
    border = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    return None if border or mask.mean() > 0.5 else MAYBE_INVERTED


def _from_array(values: np.ndarray) -> np.ndarray:
    return _parted(values, 1 if values.max() <= 1 else 255)


def _from_image(data: bytes) -> np.ndarray:
    image = open_image(data)
    if image.mode == "I;16":
        return _parted(np.asarray(image), 65535)
    lossy = data.startswith(LOSSY) or data[4:8] in LOSSY_BOXES
    colours = np.asarray(image.convert("RGBA"))
    grey = np.asarray(image.convert("RGBA").convert("RGB").convert("L"))
    alpha = colours[..., 3]
    if alpha.min() < alpha.max():
        return _from_alpha(grey, alpha, lossy)
    return _from_colours(colours[..., :3], grey, lossy)


def _from_alpha(grey: np.ndarray, alpha: np.ndarray, lossy: bool) -> np.ndarray:
    opaque = _parted(alpha, 255, lossy=lossy)
    seen = grey[opaque]
    if seen.size == 0 or int(seen.max()) - int(seen.min()) <= ONE_BRIGHTNESS:
        return opaque
    bright = _parted(grey, 255, lossy=lossy)
    if (bright != opaque).mean() <= AREA / 2:  # soft edges may differ
        return opaque
    raise ImageError(
        "its alpha and its brightness vary both and do not agree on what is observed; give it no alpha "
        "(white observed, black the hole), or one colour with a transparent hole"
    )


def _from_colours(colours: np.ndarray, grey: np.ndarray, lossy: bool) -> np.ndarray:
    numbers = colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    if not lossy and grey.min() == grey.max() and numbers.min() < numbers.max():
        raise ImageError(
            "its colours are of one brightness; allowed: white where observed, black in the hole"
        )
    return _parted(grey, 255, numbers, lossy=lossy)


def _parted(
    values: np.ndarray, white: int, colours: np.ndarray | None = None, *, lossy: bool = False
) -> np.ndarray:
    """True where observed. colours: numbers that tell colours of one brightness apart."""
    distinct = np.unique(values)
    clean = _without_noise(values) if lossy or len(distinct) > MANY else values
    kinds = clean if colours is None or clean is not values else colours
    flat = ndimage.minimum_filter(kinds, 3) == ndimage.maximum_filter(kinds, 3)
    found, first, counts = np.unique(kinds[flat], return_index=True, return_counts=True)
    filling = counts >= AREA * kinds.size
    if filling.sum() > 2:
        raise ImageError(
            f"it has {filling.sum()} values or colours that fill areas, like the classes of a segmentation; "
            "allowed: two, the brighter where observed"
        )
    if len(distinct) == 1:
        return values > 0
    if len(distinct) == 2:
        return values == distinct[1]
    if distinct[0] < 0 or distinct[-1] > white:
        raise ImageError(f"its numbers go from {distinct[0]} to {distinct[-1]}; allowed: 0 to 1, or 0 to 255")
    areas = clean[flat][first[filling]]
    return values > (areas.mean() if len(areas) == 2 else white / 2)


def _without_noise(values: np.ndarray) -> np.ndarray:
    """What is near to the lowest and to the highest value, made equal to them."""
    low, high = float(values.min()), float(values.max())
    near = NEAR * (high - low)
    return np.where(values <= low + near, low, np.where(values >= high - near, high, values))
