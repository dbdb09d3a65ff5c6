"""Whether restoring images of a size fits in a worker's memory: counted without data before it is tried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from p2l_engine.counting import count_solver
from p2l_engine.priors.base import canvas
from p2l_engine.priors.load import Model, without_weights
from pipeline import feasible
from pipeline.accelerators import ITEM_BYTES
from pipeline.cluster import devices
from pipeline.config import JobConfig
from pipeline.pictures.images import ImageError
from pipeline.worker.models import dtype_here

USABLE = 0.95  # of a machine's memory; above that Ray ends workers
PROCESS = 2**30  # bytes that a worker holds beside tensors: the interpreter, torch, a GPU's context
MARGIN = {"cpu": 2.5, "cuda": 1.25}  # over the count, for kernels' workspaces; docs/large_images.md
# Numbers to a pixel and channel that no method needs as many of, but for patches, which may overlap. Where
# half of the room holds these, and half is left to the weights, nothing is counted, which takes seconds.
ENOUGH = 128


class TooLarge(ImageError):
    """An image that cannot be restored alone, whatever is computed again."""


@dataclass(frozen=True)
class Fit:
    """images: at most so many together. checkpointing: whether only with activation checkpointing."""

    images: int
    checkpointing: bool


class Memory:
    """What a step of a job's method takes of a worker's memory.

    device: cpu or cuda, of this process. share: workers between which the device's memory is divided.
    """

    def __init__(self, config: JobConfig, device: str, share: int) -> None:
        self._solver = config.method.brief()
        self._architecture = feasible.architecture_of(config.model, config.storage)
        self._margin = MARGIN[device]
        self._patched = getattr(self._solver, "patches", None) is not None
        dtype = dtype_here(config.model.dtype, device)
        self._item_bytes = ITEM_BYTES[dtype]
        self._dtype = "float32" if dtype == "tf32" else dtype
        self._room = USABLE * devices.memory(device) / share - PROCESS
        self._counted: dict[tuple[int, int, bool], float] = {}

    def fit(self, size: tuple[int, int], images: int) -> Fit:
        """How images (height, width) fit, of which there are so many. Raises TooLarge where none does."""
        if images * self._enough(*size) <= self._room / 2 and not self._patched:
            return Fit(images, False)
        for checkpointing in (False, True):
            needed = self._needed(*size, checkpointing)
            if needed <= self._left:
                return Fit(int(self._left / needed), checkpointing)
        height, width = size
        needs, has = (size / 2**30 for size in (needed, max(self._left, 0)))
        raise TooLarge(
            f"too large for the memory here: {height}x{width} pixels need {needs:.3g} GiB beside the "
            f"weights, with activation checkpointing, and there are {has:.3g}; allowed: "
            f"{self._largest(*size, needed)}"
        )

    def _enough(self, height: int, width: int) -> float:
        numbers = ENOUGH * self._architecture.features * height * width
        return self._margin * numbers * self._item_bytes

    def _needed(self, height: int, width: int, checkpointing: bool) -> float:
        """Bytes of a step on one image, on the canvas that it gets."""
        height, width = canvas((height, width), self._model.image_multiple)
        if (height, width, checkpointing) not in self._counted:
            self._model.checkpoint_activations(checkpointing)
            image = (3, height, width)
            found = count_solver(self._model, image, image, 1, self._solver)
            self._counted[height, width, checkpointing] = self._margin * found.step_bytes
        return self._counted[height, width, checkpointing]

    def _largest(self, height: int, width: int, needed: float) -> str:
        """The largest size of about the same shape that fits, in words."""
        multiple, ratio = self._model.image_multiple, math.sqrt(max(self._left, 0) / needed)
        while True:
            rows, columns = (int(side * ratio) // multiple * multiple for side in (height, width))
            if not (rows and columns) or self._solver.too_small(self._model, (rows, columns)):
                return "more memory, since no size fits"
            if self._needed(rows, columns, True) <= self._left:
                return f"at most {rows}x{columns}"
            ratio *= 0.95

    @cached_property
    def _model(self) -> Model:
        return without_weights(self._architecture, dtype=self._dtype)

    @cached_property
    def _left(self) -> float:
        """Bytes beside the weights."""
        return self._room - self._model.weight_bytes - self._solver.load(self._model)
