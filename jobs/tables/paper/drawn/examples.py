"""A few images of a job with their measurements, as its workers would make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from p2l_engine.operators import LinearOperator
from pipeline.config import JobConfig
from pipeline.input import sources
from pipeline.worker.measure import Prepared, measurements, prepare


@dataclass(frozen=True)
class Examples:
    """x: (B, 3, H, W) in [-1, 1], y = A x + n, and each image's key and seed."""

    keys: list[str]
    seeds: list[int]
    x: Tensor
    A: LinearOperator
    y: Tensor


def examples(job: JobConfig, count: int) -> Examples:
    """The first images of a job's input that can be read. Raises ValueError where there is none."""
    found = list(islice(_prepared(job), count))
    if not found:
        raise ValueError(f"input: {', '.join(job.input)} holds no image")
    A, y = measurements(found, job)
    return Examples(
        [image.row.key for image in found],
        [image.seed for image in found],
        torch.stack([image.image for image in found]),
        A,
        y,
    )


def _prepared(job: JobConfig) -> Iterator[Prepared]:
    for shard in sources.listing(job.input, job.reading).shards:
        for row in sources.rows(shard, [True] * len(sources.keys(shard))):
            if row.error is None and row.image is not None:
                yield prepare(row, job)
