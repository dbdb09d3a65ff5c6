"""From an input row to a measurement: made here from a clean image, or taken as it is."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from p2l_engine import metrics
from p2l_engine.operators import LinearOperator
from p2l_engine.seeding import generator, image_seed
from pipeline import limits
from pipeline.config import JobConfig
from pipeline.input import sources
from pipeline.input.rows import InputRow
from pipeline.input.sources import Shard
from pipeline.messages import describe
from pipeline.output.columns import METRICS
from pipeline.pictures.arrays import NPY, read_npy
from pipeline.pictures.images import ImageError, decode_image, fit_image, open_image
from pipeline.pictures.masks import doubt, fit_mask, read_mask


@dataclass(frozen=True)
class Prepared:
    """One image ready for a solver. row: the input row without its encoded images.

    image: (3, h, w) in [-1, 1]; the fitted original in mode measure, the measurement itself in mode restore.
    mask: (1, H, W), 1 where observed. kernel: (1, k, l), sum 1. pixels: the image as uint8 (h, w, 3).
    doubt: why the mask is hardly what was meant, if anything speaks against it.
    embedding: (L, D), instead of that of a prompt.
    caption: of the picture, where the job has captions.
    """

    row: InputRow
    seed: int
    image: Tensor
    pixels: np.ndarray
    mask: Tensor | None
    kernel: Tensor | None
    doubt: str | None = None
    embedding: Tensor | None = None
    caption: str | None = None

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
    own = (image.height, image.width)
    if config.mode == "measure":
        image = fit_image(image, config.sides, config.fit)
    if config.mode == "restore" or config.sides is None:
        _check_size(image.height, image.width)
    pixels = np.array(image)
    needs = config.operator.needs
    mask = None
    if "mask" in needs:
        mask = fit_mask(read_mask(row.mask), own, (image.height, image.width), config.fit)
    return Prepared(
        replace(row, image=None, mask=None, kernel=None),
        image_seed(config.seed, row.key),
        _to_tensor(pixels),
        pixels,
        None if mask is None else torch.from_numpy(mask[None].astype(np.float32)),
        torch.from_numpy(read_kernel(row.kernel)[None]) if "kernel" in needs else None,
        None if mask is None else doubt(mask),
    )


def measurements(images: Sequence[Prepared], config: JobConfig) -> tuple[LinearOperator, Tensor]:
    """The operator of a batch that agrees in `group`, and its measurements (B, *measurement).

    Raises ValueError where the operator cannot apply to images of this shape.
    """
    x = torch.stack([image.image for image in images])
    shape = tuple(x.shape[1:])
    masks, kernels = _stacked([image.mask for image in images]), _stacked([image.kernel for image in images])
    if config.mode == "restore":
        operator = config.operator.build(measurement_shape=shape, masks=masks, kernels=kernels)
        _check_size(*operator.image_shape(shape)[1:])
        return operator, operator.observed(x)
    operator = config.operator.build(
        generators=[generator(image.seed, "operator") for image in images],
        image_shape=shape,
        masks=masks,
        kernels=kernels,
    )
    return operator, operator.measure(x, config.noise, [generator(image.seed, "noise") for image in images])


def rgb(y: Tensor) -> np.ndarray | None:
    """A measurement (*measurement) as a picture uint8 (H, W, 3), of whatever size; None where it is none."""
    return metrics.to_uint8(y) if y.ndim == 3 and y.shape[0] == 3 else None


def shown(image: Prepared, config: JobConfig) -> np.ndarray:
    """The measurement as a picture uint8 (H, W, 3): itself, or back-projected where it is no RGB picture.

    It is the one that the image is restored from, since its numbers are drawn from the key's seed. Raises
    ValueError where the operator cannot apply to images of this shape.
    """
    operator, y = measurements([image], config)
    picture = rgb(y[0])
    return metrics.to_uint8(operator.backproject(y)[0]) if picture is None else picture


def originals(
    config: JobConfig, shard: Shard, wanted: Sequence[bool]
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Key and fitted input image (H, W, 3) of the wanted rows; None for one that can no longer be read."""
    for row in sources.rows(shard, wanted):
        try:
            yield row.key, prepare(row, config).pixels
        except ImageError:
            yield row.key, None


def _stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    """What each image brings; None where they bring none, in which a batch agrees."""
    given = [part for part in parts if part is not None]
    return torch.stack(given) if given else None


def against(reference: np.ndarray, image: np.ndarray) -> dict[str, float | None]:
    """The metrics, by column, that need the original; both uint8 (H, W, 3)."""
    columns = [metric.column for metric in METRICS if metric.needs_reference]
    return {column: getattr(metrics, column)(reference, image) for column in columns}


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


def read_kernel(data: bytes | None) -> np.ndarray:
    """An image or a .npy file to float32 (height, width), 0 or more, scaled to sum 1. Raises ImageError.

    An image's grey is taken, times its alpha: what is transparent weighs nothing.
    """
    if data is None:
        raise ImageError("no kernel: this operator needs one in each row")
    try:
        kernel = read_npy(data) if data.startswith(NPY) else _weights(open_image(data))
    except Exception as error:  # NumPy's parser of headers raises ValueError, EOFError, SyntaxError, ...
        raise ImageError(f"kernel cannot be used: {describe(error)}") from error
    total = kernel.sum(dtype=np.float64)
    if (kernel < 0).any() or total <= 0:
        raise ImageError("kernel cannot be used: its values must be 0 or more, with a sum above 0")
    return (kernel / total).astype(np.float32)


def _weights(image: Image.Image) -> np.ndarray:
    """Float (H, W) from 0 to 1."""
    if image.mode == "I;16":
        return np.asarray(image, np.float32) / 65535
    grey = np.asarray(image.convert("RGB").convert("L"), np.float32) / 255
    if not image.has_transparency_data:
        return grey
    return grey * (np.asarray(image.convert("RGBA"), np.float32)[..., 3] / 255)
