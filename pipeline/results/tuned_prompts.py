"""The prompts that a run tuned: their mean, to start another run from, and what words they are near to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from p2l_engine.nearest_text import nearest
from p2l_engine.priors.base import LatentPrior
from pipeline.config import ConfigError, read_back
from pipeline.input.cells import npy
from pipeline.output.columns import completed
from pipeline.output.folder import MEAN_PROMPT, PROMPTS, RUN, OutputFolder
from pipeline.output.folder import now as now_text
from pipeline.stores import storage, storage_options
from pipeline.worker import models
from pipeline.worker.stored_prompts import COLUMN, Embeddings, of_table

NEAREST = 5


def read_prompts(url: str, captions: Sequence[str], words: bool, images: int) -> dict[str, Any]:
    """Writes the mean of a run's prompt embeddings and what they are near to; returns the latter.

    captions: texts among which the nearest are looked for, beside the words of the model's vocabulary where
    `words`. images: of how many rows, the first, the nearest texts are told one by one.

    `before`, and how far prompts moved from it, are told where rows started from a text; of the mean, where
    all started from the same.

    Raises FileNotFoundError where there is no run, ConfigError where it kept no embedding.
    """
    output = OutputFolder(storage.absolute(url).rstrip("/"))
    output.check()
    config = read_back(output.json(RUN)["config"])
    storage_options.configure(config.storage)
    count, total, starts = 0, np.zeros(()), set[str | None]()
    first: dict[str, tuple[str | None, Embeddings]] = {}
    for key, start, embedding in _embeddings(output):
        if len(first) < images:
            first[key] = start, embedding
        starts.add(start)
        total, count = total + embedding.astype(np.float64), count + 1
    if not count:
        raise ConfigError([f"{url}: no row has a {COLUMN}; allowed: a run of a tuning method that keeps it"])
    mean = (total / count).astype(np.float32)
    storage.write_bytes(output.at(MEAN_PROMPT), npy(mean))
    model = models.load_latent(config.model.model_copy(update={"device": "auto"}))  # not the run's machine
    texts = {"captions": list(captions), "words": model.words() if words else []}
    of_all = starts.pop() if len(starts) == 1 else None
    told: dict[str, Any] = {"made": now_text(), "prompt": of_all, "rows": count}
    before = [] if of_all is None else [_embedded(model, of_all)]
    # All at once, for each text is embedded again and again otherwise.
    near = _near(model, [*before, mean, *(embedding for _, embedding in first.values())], texts)
    if before:
        told["before"] = near.pop(0)
    told["mean"] = near.pop(0) | _moved(model, of_all, mean)
    told["images"] = {
        key: found | _moved(model, start, embedding)
        for found, (key, (start, embedding)) in zip(near, first.items(), strict=True)
    }
    output.write_json(PROMPTS, told)
    return told


def _embeddings(output: OutputFolder) -> Iterator[tuple[str, str | None, Embeddings]]:
    """Key, first prompt and embedding of each row of a whole shard that has one, a row group in memory."""
    columns = ["key", "prompt", COLUMN]
    for shard in output.restored():
        with output.open(output.restored_file(shard)) as parquet:
            for group in range(parquet.num_row_groups):
                table = completed(parquet.read_row_group(group, columns=columns), columns)
                starts = dict(zip(table["key"].to_pylist(), table["prompt"].to_pylist(), strict=True))
                for key, embedding in of_table(table).items():
                    yield key, starts[key], embedding


def _embedded(model: LatentPrior, prompt: str) -> Embeddings:
    embedding: Embeddings = model.embed_prompts([prompt]).cpu().numpy()[0]
    return embedding


def _near(
    model: LatentPrior, embeddings: Sequence[Embeddings], texts: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """The nearest texts of each kind, for each embedding."""
    C = torch.from_numpy(np.stack(embeddings))
    found = {kind: nearest(model, C, among, NEAREST) for kind, among in texts.items() if among}
    return [
        {kind: [near._asdict() for near in of_kind[place]] for kind, of_kind in found.items()}
        for place in range(len(embeddings))
    ]


def _moved(model: LatentPrior, start: str | None, after: Embeddings) -> dict[str, float]:
    """Root mean square of the change from the text that was started from, where there is one."""
    if start is None:
        return {}
    change = after.astype(np.float64) - _embedded(model, start)
    return {"moved": float(np.sqrt(np.square(change).mean()))}
