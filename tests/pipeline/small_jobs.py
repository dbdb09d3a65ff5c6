"""Small real shards and jobs on them, restored without a network, for the tests of this folder."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from pipeline.config import JobConfig, load_config

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
    time.sleep(0.02)
    return images * 1.0
