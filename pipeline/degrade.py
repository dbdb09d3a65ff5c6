"""From an input row to a measurement: made here from a clean image, or taken as it is."""

from __future__ import annotations

import io
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2l_engine import operators
from p2l_engine.operators import LinearOperator
from p2l_engine.operators.masks import Masking
from p2l_engine.seeding import generator, image_seed
from pipeline import limits
from pipeline.config import JobConfig
from pipeline.images import ImageError, decode_image, fit_image
from pipeline.messages import describe
from pipeline.rows import InputRow

NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class Prepared:
    """One image ready for a solver. row: the input row without its encoded images.

    image: (3, h, w) in [-1, 1]; the fitted original in mode measure, the measurement itself in mode restore.
    mask: (1, H, W), 1 where observed. kernel: (1, k, l), sum 1. pixels: the image as uint8 (h, w, 3).
    """

    row: InputRow
    seed: int
    image: Tensor
    pixels: np.ndarray
    mask: Tensor | None
    kernel: Tensor | None

    @property
    def group(self) -> Hashable:
        """Images that can be restored together agree in this."""
        return tuple(
            None if part is None else tuple(part.shape) for part in (self.image, self.mask, self.kernel)
        )


def prepare(row: InputRow, config: JobConfig) -> Prepared:
    """Decodes and fits what a row brings. Raises ImageError where that cannot be done."""
    if row.error is not None:
        raise ImageError(row.error)
    if row.image is None:
        raise ImageError("no image: the row has no image bytes")
    if row.prompt is not None and len(row.prompt) > limits.PROMPT_CHARACTERS:
        raise ImageError(
            f"prompt too long: {len(row.prompt):,} characters; at most {limits.PROMPT_CHARACTERS:,}"
        )
    image = decode_image(row.image)
    if config.mode == "measure":
        image = fit_image(image, config.size, config.fit)
    if config.mode == "restore" or config.size is None:
        _check_size(image.height, image.width)
    pixels = np.array(image)
    needs = operators.needs(config.operator["name"], config.operator_settings)
    return Prepared(
        replace(row, image=None, mask=None, kernel=None),
        image_seed(config.seed, row.key),
        _to_tensor(pixels),
        pixels,
        _mask(row.mask) if "mask" in needs else None,
        _kernel(row.kernel) if "kernel" in needs else None,
    )


def measurements(images: Sequence[Prepared], config: JobConfig) -> tuple[LinearOperator, Tensor]:
    """The operator of a batch that agrees in `group`, and its measurements (B, *measurement).

    Raises ValueError where the operator cannot apply to images of this shape.
    """
    x = torch.stack([image.image for image in images])
    settings: dict[str, Any] = dict(config.operator_settings)
    if images[0].mask is not None:
        settings["masks"] = torch.stack([image.mask for image in images if image.mask is not None])
    if images[0].kernel is not None:
        settings["kernels"] = torch.stack([image.kernel for image in images if image.kernel is not None])
    if config.mode == "restore":
        if config.operator["name"] == "linear":
            settings["image_shape"] = tuple(
                x.shape[1:]
            )  # all that is known: images and measurements of one size
        operator = operators.build(config.operator["name"], **settings)
        _check_size(*operator.image_shape(tuple(x.shape[1:]))[1:])
        return operator, torch.where(operator.mask, x, 0) if isinstance(operator, Masking) else x
    operator = operators.build(
        config.operator["name"],
        generators=[generator(image.seed, "operator") for image in images],
        image_shape=tuple(x.shape[1:]),
        **settings,
    )
    return operator, operator.measure(x, config.noise, [generator(image.seed, "noise") for image in images])


def _check_size(height: int, width: int) -> None:
    """Raises ImageError for an image of the data's own size that is too large to restore."""
    if height * width > limits.RESTORED_PIXELS or max(height, width) > limits.RESTORED_SIDE:
        raise ImageError(
            f"image too large to restore: {width} x {height} pixels; at most {limits.RESTORED_PIXELS:,}, and "
            f"{limits.RESTORED_SIDE:,} a side; give the job a `size`, or cut the image"
        )


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


def _array(data: bytes | None, name: str) -> np.ndarray:
    """A mask or kernel as a finite float array (H, W): a .npy file as it is, an image as grey from 0 to 1."""
    if data is None:
        raise ImageError(f"no {name}: this operator needs one in each row")
    try:
        if data.startswith(NPY):
            array = _read_npy(data)
        else:
            array = np.asarray(decode_image(data).convert("L"), dtype=np.float32) / 255
    except Exception as error:  # NumPy's parser of headers raises ValueError, EOFError, SyntaxError, ...
        raise ImageError(f"{name} cannot be used: {describe(error)}") from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):  # one channel, first or last
        array = array.squeeze(0 if array.shape[0] == 1 else 2)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ImageError(
            f"{name} cannot be used: expected finite numbers (height, width), got shape {array.shape}"
        )
    return array


def _read_npy(data: bytes) -> np.ndarray:
    """A .npy file of real numbers as float32. No memory is taken before its data is seen to be there.

    Raises ValueError for other types: an array of objects is a pickle, and is not opened.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version > (2, 0):
        raise ValueError(f"a .npy file of version {version[0]}.{version[1]}; allowed: 1.0 and 2.0")
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, columns_first, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype}; allowed: real numbers")
    stored = len(data) - file.tell()
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != stored:
        raise ValueError(f"an array of shape {shape} and type {dtype} in {stored:,} bytes")
    with np.errstate(over="ignore"):  # to infinity, which is refused
        values = np.frombuffer(data, dtype, offset=file.tell()).astype(np.float32)
    return values.reshape(shape, order="F" if columns_first else "C")


def _mask(data: bytes | None) -> Tensor:
    """Observed is what is above one half: white in an image, 1 in an array."""
    mask = _array(data, "mask") > 0.5
    if not mask.any():
        raise ImageError("mask cannot be used: no pixel is observed (white, 1)")
    return torch.from_numpy(mask[None].astype(np.float32))


def _kernel(data: bytes | None) -> Tensor:
    """Scaled to sum 1."""
    kernel = _array(data, "kernel")
    total = kernel.sum(dtype=np.float64)
    if (kernel < 0).any() or total <= 0:
        raise ImageError("kernel cannot be used: its values must be 0 or more, with a sum above 0")
    return torch.from_numpy((kernel / total).astype(np.float32)[None])
