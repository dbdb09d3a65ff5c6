"""Prompt embeddings that an earlier run tuned, to start from: each image's own, or one for all."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import ConfigError, JobConfig
from pipeline.input.rows import InputRow
from pipeline.output.folder import RUN, OutputFolder
from pipeline.pictures.arrays import read_npy
from pipeline.stores import retries, storage

COLUMN = "prompt_embedding"
ONE_FOR_ALL = ".npy"
GROUPS_HELD = 4  # row groups of 16 embeddings, each 4 MiB with Stable Diffusion

Embeddings = NDArray[np.float32]  # (L, D)
Stored = Callable[[InputRow], Tensor]  # raises LookupError where a row has none


def check(config: JobConfig) -> None:
    """Raises ConfigError where the job names what holds no prompt embeddings."""
    url = config.prompt_embeddings
    if url is None:
        return
    try:
        if url.endswith(ONE_FOR_ALL):
            _one(url)
            return
        folder = OutputFolder(url)
        folder.check()
        kept = folder.json(RUN).get("config", {}).get("keep", ())
    except (OSError, ValueError) as error:
        if retries.name(error):  # a store out of reach is no mistake of the job's
            raise
        raise ConfigError([f"prompt_embeddings: {error}"]) from error
    if COLUMN not in kept:
        mend = f"allowed: a run with {COLUMN} in `keep`, or a .npy file"
        raise ConfigError([f"prompt_embeddings: {url} keeps none; {mend}"])


def stored(url: str) -> Stored:
    """By the row's key in a run's output, or the same for every row from a .npy file (L, D)."""
    if url.endswith(ONE_FOR_ALL):
        one = torch.from_numpy(_one(url))
        return lambda row: one
    folder = OutputFolder(url)

    @lru_cache(maxsize=GROUPS_HELD)
    def groups(file: str) -> dict[str, int]:
        with folder.open(file) as parquet:
            keys = [
                parquet.read_row_group(group, columns=["key"])["key"].to_pylist()
                for group in range(parquet.num_row_groups)
            ]
        return {key: group for group, of_group in enumerate(keys) for key in of_group}

    @lru_cache(maxsize=GROUPS_HELD)
    def embeddings(file: str, group: int) -> dict[str, Embeddings]:
        with folder.open(file) as parquet:
            return of_table(parquet.read_row_group(group, columns=["key", COLUMN]))

    def by_key(row: InputRow) -> Tensor:
        file = folder.restored_file(row.source_shard)
        try:
            found = embeddings(file, groups(file)[row.key])[row.key]
        except (FileNotFoundError, KeyError):
            raise LookupError(f"no prompt embedding: {url} has none of this key") from None
        return torch.from_numpy(found)

    return by_key


def of_table(table: pa.Table) -> dict[str, Embeddings]:
    """The embeddings of the rows that have one, by key."""
    table = table.filter(pc.is_valid(table[COLUMN]))
    return {
        str(key): np.stack([np.asarray(token.values, np.float32) for token in rows])
        for key, rows in zip(table["key"].to_pylist(), table[COLUMN], strict=True)
    }


def _one(url: str) -> Embeddings:
    with storage.open_read(url) as file:
        return read_npy(file.read())
