"""The prompts that a run tuned: their mean, to start another run from, and what words they are near to."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from p2l_engine.nearest_text import nearest
from p2l_engine.priors.base import LatentPrior
from pipeline.config import ConfigError, read_back
from pipeline.output.folder import MEAN_PROMPT, PROMPTS, RUN, OutputFolder
from pipeline.output.folder import now as now_text
from pipeline.stores import storage
from pipeline.worker import models
from pipeline.worker.stored_prompts import COLUMN, Embeddings, of_table

NEAREST = 5


def read_prompts(url: str, captions: Sequence[str], words: bool, images: int) -> dict[str, Any]:
    """Writes the mean of a run's prompt embeddings and what they are near to; returns the latter.

    captions: texts among which the nearest are looked for, beside the words of the model's vocabulary where
    `words`. images: of how many rows, the first, the nearest texts are told one by one.

    Raises FileNotFoundError where there is no run, ConfigError where it kept no embedding.
    """
    output = OutputFolder(storage.absolute(url).rstrip("/"))
    output.check()
    config = read_back(output.json(RUN)["config"])
    count, total, first = 0, np.zeros(()), dict[str, Embeddings]()
    for key, embedding in _embeddings(output):
        if len(first) < images:
            first[key] = embedding
        total, count = total + embedding.astype(np.float64), count + 1
    if not count:
        raise ConfigError([f"{url}: no row has a {COLUMN}; allowed: a run of a tuning method that keeps it"])
    mean = (total / count).astype(np.float32)
    _write_npy(output.at(MEAN_PROMPT), mean)
    model = models.load_latent(config.model)
    before = model.embed_prompts([config.prompt]).cpu().numpy()[0]
    texts = {"captions": list(captions), "words": model.words() if words else []}
    told = {
        "made": now_text(),
        "prompt": config.prompt,
        "rows": count,
        "before": _near(model, before, texts),
        "mean": _near(model, mean, texts) | {"moved": _moved(before, mean)},
        "images": {
            key: _near(model, embedding, texts) | {"moved": _moved(before, embedding)}
            for key, embedding in first.items()
        },
    }
    output.write_json(PROMPTS, told)
    return told


def _embeddings(output: OutputFolder) -> Iterator[tuple[str, Embeddings]]:
    """Of each row of a whole shard that has one, a row group in memory."""
    for shard in output.restored():
        with output.open(output.restored_file(shard)) as parquet:
            for group in range(parquet.num_row_groups):
                yield from of_table(parquet.read_row_group(group, columns=["key", COLUMN])).items()


def _near(
    model: LatentPrior, embedding: Embeddings, texts: dict[str, list[str]]
) -> dict[str, list[dict[str, Any]]]:
    C = torch.from_numpy(embedding)[None]
    return {
        kind: [near._asdict() for near in nearest(model, C, among, NEAREST)[0]]
        for kind, among in texts.items()
        if among
    }


def _moved(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Root mean square of the change."""
    return float(np.sqrt(np.square(after.astype(np.float64) - before).mean()))


def _write_npy(url: str, array: NDArray[np.float32]) -> None:
    data = io.BytesIO()
    np.save(data, array)
    with storage.write_whole(url) as file:
        file.write(data.getvalue())
