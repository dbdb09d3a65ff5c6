"""From an input row to a measurement: made here from a clean image, or taken as it is."""

from __future__ import annotations

import io
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2l_engine import operators
from p2l_engine.operators import LinearOperator
from p2l_engine.operators.masks import Masking
from p2l_engine.seeding import generator, image_seed
from pipeline.config import JobConfig
from pipeline.images import ImageError, decode_image, fit_image
from pipeline.rows import InputRow

NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class Prepared:
    """One image ready for a solver.

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
    image = decode_image(row.image)
    if config.mode == "measure":
        image = fit_image(image, config.size, config.fit)
    pixels = np.array(image)
    needs = operators.needs(config.operator["name"], config.operator_settings)
    return Prepared(
        row,
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
        return operator, torch.where(operator.mask, x, 0) if isinstance(operator, Masking) else x
    operator = operators.build(
        config.operator["name"],
        generators=[generator(image.seed, "operator") for image in images],
        image_shape=tuple(x.shape[1:]),
        **settings,
    )
    return operator, operator.measure(x, config.noise, [generator(image.seed, "noise") for image in images])


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


def _array(data: bytes | None, name: str) -> np.ndarray:
    """A mask or kernel as a finite float array (H, W): a .npy file as it is, an image as grey from 0 to 1."""
    if data is None:
        raise ImageError(f"no {name}: this operator needs one in each row")
    try:
        if data.startswith(NPY):
            array = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
        else:
            array = np.asarray(decode_image(data).convert("L"), dtype=np.float32) / 255
    except (ImageError, ValueError, OSError, EOFError) as error:
        raise ImageError(f"{name} cannot be used: {error}") from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):  # one channel, first or last
        array = array.squeeze(0 if array.shape[0] == 1 else 2)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ImageError(
            f"{name} cannot be used: expected finite numbers (height, width), got shape {array.shape}"
        )
    return array


def _mask(data: bytes | None) -> Tensor:
    """Observed is what is above one half: white in an image, 1 in an array."""
    mask = _array(data, "mask") > 0.5
    if not mask.any():
        raise ImageError("mask cannot be used: no pixel is observed (white, 1)")
    return torch.from_numpy(mask[None].astype(np.float32))


def _kernel(data: bytes | None) -> Tensor:
    """Scaled to sum 1."""
    kernel = _array(data, "kernel")
    if (kernel < 0).any() or kernel.sum() <= 0:
        raise ImageError("kernel cannot be used: its values must be 0 or more, with a sum above 0")
    return torch.from_numpy((kernel / kernel.sum())[None])
