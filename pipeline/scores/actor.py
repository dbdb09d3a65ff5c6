"""The actor: the pictures of a shard in, a file of scores for each network out."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from p2l_engine.metrics import NETWORKS, Scorer
from pipeline.cluster import devices
from pipeline.config import JobConfig
from pipeline.input.rows import SourceError
from pipeline.input.sources import Shard
from pipeline.messages import describe, readable
from pipeline.output import scores
from pipeline.output.columns import Row
from pipeline.output.folder import OutputFolder
from pipeline.scores import pictures
from pipeline.scores.pictures import Picture
from pipeline.scores.weights import Weights
from pipeline.stores import retries, storage, storage_options
from pipeline.worker.options import ActorOptions

TOGETHER = 16  # pictures of one shape that a network sees at a time, at most
PIXELS_TOGETHER = TOGETHER * 512**2  # of larger ones fewer, since a network's maps grow with them
ROWS_IN_GROUP = 64  # pictures in memory


@dataclass(frozen=True)
class Task:
    """A shard to be scored by some networks, each with the marks of its file.

    source: where the references are that the output does not keep; of a reference set, its pictures.
    """

    shard: str
    networks: Mapping[str, Mapping[str, str]]
    source: Shard | None
    reference_set: str | None = None

    def packed(self) -> dict[str, bytes]:
        """As a row of a Ray Dataset."""
        return {"task": pickle.dumps(self)}


class ScoreShards:
    """What Ray Data runs. A shard's file appears whole, so a kill loses the shards in work."""

    def __init__(
        self, output: OutputFolder, config: JobConfig, weights: Sequence[Weights], options: ActorOptions
    ) -> None:
        storage_options.configure(config.storage)
        options.limit_threads()
        devices.check(options.device)
        torch.backends.cudnn.allow_tf32 = False  # the same features on GPUs as on CPUs, to within rounding
        self.config, self.output = config, output
        self.scorers = {of.network: NETWORKS[of.network].load(of.here(), options.device) for of in weights}

    @retries.patient()
    @devices.ending_the_process()
    def __call__(self, block: pa.Table) -> pa.Table:
        (packed,) = block.column("task").to_pylist()
        task: Task = pickle.loads(packed)
        try:
            images = self._write(task)
        except (OSError, SourceError, pa.ArrowException) as error:
            raise OSError(f"shard {task.shard}: cannot be scored: {' '.join(str(error).split())}") from error
        return pa.table({"shard": [task.shard], "images": [images]})

    def _write(self, task: Task) -> int:
        """Every file of the task. Returns how many images are in each."""
        found, images = self._pictures(task), 0
        with ExitStack() as stack:
            writers = {name: stack.enter_context(self._writer(task, name)) for name in task.networks}
            while batch := list(islice(found, ROWS_IN_GROUP)):
                images += len(batch)
                for name, writer in writers.items():
                    rows = [row for part in _alike(batch) for row in _scored(part, name, self.scorers[name])]
                    writer.write_table(pa.Table.from_pylist(rows, schema=writer.schema))
        return images

    def _pictures(self, task: Task) -> Iterator[Picture]:
        if task.reference_set is None:
            return pictures.restored(self.output, self.config, task.shard, task.source)
        assert task.source is not None
        return pictures.of_set(self.config, task.source)

    @contextmanager
    def _writer(self, task: Task, network: str) -> Iterator[pq.ParquetWriter]:
        file = scores.scores_file(network, task.shard, task.reference_set)
        schema = scores.schema(network, task.reference_set, task.networks[network])
        with (
            storage.write_whole(self.output.at(file)) as opened,
            pq.ParquetWriter(opened, schema, compression="zstd", use_dictionary=False) as writer,
        ):
            yield writer


def _alike(batch: Sequence[Picture]) -> Iterator[Sequence[Picture]]:
    """Neighbours of one shape, a few at a time."""
    for _, group in groupby(batch, key=lambda picture: picture.shape):
        first = next(group)
        pixels = 0 if first.image is None else first.image[..., 0].size
        most = max(1, min(TOGETHER, PIXELS_TOGETHER // max(1, pixels)))
        group = chain([first], group)
        while part := list(islice(group, most)):
            yield part


def _scored(batch: Sequence[Picture], network: str, scorer: Scorer) -> list[Row]:
    """A row each; of a batch that fails, only what fails alone is without scores."""
    keys = [{"key": picture.key, "error": picture.error} for picture in batch]
    if batch[0].image is None:
        return keys
    try:
        columns = _columns(batch, network, scorer)
    except Exception as error:
        if devices.is_fault(error):
            raise
        if len(batch) > 1:
            return [row for picture in batch for row in _scored([picture], network, scorer)]
        return [keys[0] | {"error": readable(f"cannot be scored: {describe(error)}")}]
    values = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [row | found for row, found in zip(keys, values, strict=True)]


def _columns(batch: Sequence[Picture], network: str, scorer: Scorer) -> dict[str, Any]:
    images = _tensor([picture.image for picture in batch])
    references = None if batch[0].reference is None else _tensor([picture.reference for picture in batch])
    found: dict[str, Any] = {}
    if scorer.features:
        found[scores.FEATURES] = scorer.features(images).numpy()
    if scorer.features and references is not None:
        found[scores.REFERENCE_FEATURES] = scorer.features(references).numpy()
    if scorer.distances and references is not None:
        found[str(NETWORKS[network].distance)] = scorer.distances(references, images).tolist()
    return found


def _tensor(pictures: Sequence[np.ndarray | None]) -> Tensor:
    """uint8 (B, 3, H, W)."""
    return torch.from_numpy(np.stack([array for array in pictures if array is not None])).permute(0, 3, 1, 2)
