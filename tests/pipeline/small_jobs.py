"""Small real shards and jobs on them, restored without a network, for the tests of this folder."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from pipeline.config import JobConfig, load_config
from pipeline.output.folder import OutputFolder

SIDE = 16


def picture(seed: int, side: int = SIDE) -> Image.Image:
    """A smooth picture that differs for each seed."""
    y, x = np.mgrid[:side, :side] / side
    waves = [127 + 120 * np.sin(3 * x + 5 * y * (channel + 1) + seed) for channel in range(3)]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(seed: int, side: int = SIDE) -> bytes:
    return encoded(picture(seed, side))


def write_parquet(path: Path, images: Mapping[Any, Any], **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"key": list(images), "image": list(images.values()), **columns})
    pq.write_table(table, path)
    return path


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, names: str = "abc", rows: int = 5) -> Path:
    """Parquet shards a, b, c, ... of rows a-0, a-1, ..., each another picture."""
    for number, name in enumerate(names):
        write_parquet(
            folder / f"{name}.parquet", {f"{name}-{row}": png(100 * number + row) for row in range(rows)}
        )
    return folder


def settings(source: Path, output: Path, **changed: Any) -> dict[str, Any]:
    """A job restored by the adjoint, by one actor, in commits of two rows."""
    return {
        "input": str(source),
        "output": str(output),
        "size": SIDE,
        "operator": {"name": "super_resolution", "factor": 4},
        "method": {"name": "adjoint"},
        "workers": 1,
        "commit_every": 2,
    } | changed


def job(source: Path, output: Path, **changed: Any) -> JobConfig:
    return load_config(settings(source, output, **changed))


def no_memory_for_two(images: Tensor) -> Tensor:
    """A linear operator for configurations that runs out of memory for two images, and for one does not."""
    if len(images) == 2:
        raise MemoryError("out of memory")
    return images * 1.0


def means_of_rows(images: Tensor) -> Tensor:
    """A linear operator for configurations whose measurement is no picture."""
    return images.mean(-1)


def slow_identity(images: Tensor) -> Tensor:
    """A linear operator for configurations that takes its time, as a real solver does."""
    time.sleep(0.5 if Path(os.environ["P2L_TEST_SLOWED"]).exists() else 0.02)
    return images * 1.0


@contextmanager
def slowed() -> Iterator[Path]:
    """While entered, `slow_identity` is so slow that a run outlasts what a test does beside it.

    Gives the file whose being there slows it, in all processes that this one started.
    """
    marker = Path(os.environ["P2L_TEST_SLOWED"])
    marker.touch()
    try:
        yield marker
    finally:
        marker.unlink()


def committed(output: Path | str) -> dict[str, float]:
    """Seconds, which no second restoration repeats, by key; each key must be there once. May be under way."""
    folder = OutputFolder(str(output))
    for _ in range(100):
        with suppress(OSError, pa.ArrowException):  # a shard became whole, and its commits went
            commits = chain.from_iterable(folder.unfinished().values())
            files = [*commits, *map(folder.restored_file, folder.restored())]
            tables = [folder.read(file, ["key", "seconds"]) for file in files]
            found = [(row["key"], row["seconds"]) for table in tables for row in table.to_pylist()]
            if len(found) == len(dict(found)):  # else its commits are about to go
                return dict(found)
        time.sleep(0.05)
    raise AssertionError(f"{output} cannot be read, or has a key twice")
