"""The pictures that are scored: restored ones beside their references, and those of a reference set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pipeline.config import JobConfig
from pipeline.input import sources
from pipeline.input.rows import changed
from pipeline.input.sources import Shard
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import group_rows
from pipeline.pictures.images import ImageError, decode_image, fit_image
from pipeline.worker.measure import originals


@dataclass(frozen=True)
class Picture:
    """image, reference: uint8 (H, W, 3). error: why one is None that should be there."""

    key: str
    image: np.ndarray | None = None
    reference: np.ndarray | None = None
    error: str | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """Pictures that can be scored together agree in this."""
        return tuple(None if array is None else array.shape for array in (self.image, self.reference))


def restored(output: OutputFolder, config: JobConfig, name: str, source: Shard | None) -> Iterator[Picture]:
    """The `ok` rows of a whole shard, in order, a few at a time.

    source: where their references are, which the output does not keep; None where it does, or there are none.
    Raises SourceError where that has other rows than were restored.
    """
    file = output.restored_file(name)
    statuses = output.read(file, ("status",))["status"].to_pylist()
    wanted = [status == "ok" for status in statuses]
    read = originals(config, source, wanted) if source else None
    with output.open(file) as parquet:
        groups = (
            group_rows(parquet, group, ("key", "status", "image", "reference"))
            for group in range(parquet.num_row_groups)
        )
        for row in chain.from_iterable(groups):
            if row["status"] != "ok":
                continue
            key, original = next(read) if read else (row["key"], None)
            if source and key != row["key"]:
                raise changed(source.url)
            cell = row.get("reference")
            try:
                image = _decoded(row["image"])
                reference = _decoded(cell) if cell else original
            except ImageError as error:
                yield Picture(row["key"], error=str(error))
                continue
            missing = "its original cannot be read any more" if source and reference is None else None
            if reference is not None and reference.shape != image.shape:
                missing, reference = "its reference is of another size", None
            yield Picture(row["key"], image, reference, missing)


def of_set(config: JobConfig, shard: Shard) -> Iterator[Picture]:
    """The pictures of a shard of a reference set, fitted as the run's own are."""
    for row in sources.rows(shard, [True] * len(sources.keys(shard))):
        try:
            if row.image is None:
                raise ImageError(row.error or "no image")
            image = decode_image(row.image)
            if config.mode == "measure":
                image = fit_image(image, config.sides, config.fit)
            yield Picture(row.key, np.asarray(image))
        except ImageError as error:
            yield Picture(row.key, error=str(error))


def _decoded(cell: dict[str, bytes]) -> np.ndarray:
    return np.asarray(decode_image(cell["bytes"]))
