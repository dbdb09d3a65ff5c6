"""Output folders made of real photographs, as a run would leave them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

from p2l_engine.metrics import psnr, ssim

PNG = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "source_shard", "status", "error")),
        *((name, PNG) for name in ("image", "measurement", "reference")),
        *((name, pa.int32()) for name in ("width", "height")),
        *((name, pa.float64()) for name in ("psnr", "ssim", "lpips", "residual", "seconds")),
        ("nfe", pa.int64()),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("operator", "method", "model", "fingerprint")),
    ]
)
CONFIG = {
    "input": "photographs/*.parquet",
    "output": "runs/sr4",
    "mode": "measure",
    "model": {"id": "tiny", "dtype": "float32"},
    "size": 96,
    "operator": {"name": "super_resolution", "factor": 4},
    "noise": 0.01,
    "method": {"name": "p2l", "preset": "tiny", "steps": 200, "projection": None},
    "seed": 0,
}
Row = dict[str, Any]


def png(pixels: np.ndarray, path: str = "") -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": path}


def photograph(index: int, side: int) -> np.ndarray:
    """A square crop of one of three photographs; another index is another place or photograph."""
    image = (data.astronaut, data.coffee, data.chelsea)[index % 3]()
    step = 37 * (index // 3)
    top, left = step % (image.shape[0] - 280), (60 + step) % (image.shape[1] - 280)
    crop = Image.fromarray(image[top : top + 280, left : left + 280])
    return np.asarray(crop.resize((side, side), Image.Resampling.BOX))


@pytest.fixture(scope="session")
def ok_row() -> Callable[..., Row]:
    """An `ok` row: a photograph, pooled, enlarged again and scored. Further settings replace its columns."""

    def build(key: str, index: int = 0, side: int = 96, factor: int = 4, **changes: Any) -> Row:
        reference = photograph(index, side)
        pooled = reference.reshape(side // factor, factor, side // factor, factor, 3).mean((1, 3)).round()
        measurement = pooled.astype(np.uint8)
        image = np.asarray(Image.fromarray(measurement).resize((side, side), Image.Resampling.BICUBIC))
        row = {
            "key": key,
            "source_shard": "a",
            "status": "ok",
            "image": png(image, key),
            "measurement": png(measurement, key),
            "reference": png(reference, key),
            "width": side,
            "height": side,
            "psnr": psnr(reference, image),
            "ssim": ssim(reference, image),
            "residual": 0.02 + 0.001 * (index % 7),
            "seconds": 2.0 + 0.1 * (index % 5),
            "nfe": 400,
            "seed": index,
            "operator": "super_resolution",
            "method": "p2l",
            "model": "tiny",
            "fingerprint": "f00d",
        }
        return row | changes

    return build


@pytest.fixture(scope="session")
def error_row() -> Callable[..., Row]:
    def build(key: str, error: str = "cannot decode the image: truncated file", **changes: Any) -> Row:
        return {
            "key": key,
            "source_shard": "a",
            "status": "error",
            "error": error,
            "fingerprint": "f00d",
        } | changes

    return build


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., str]:
    """Write rows by shard as an output folder and return it; settings given replace those of `CONFIG`."""

    def write(
        restored: Mapping[str, Sequence[Row]],
        unfinished: Mapping[str, Sequence[Row]] | None = None,
        *,
        name: str = "run",
        rows_a_group: int = 4,
        **settings: Any,
    ) -> str:
        folder = tmp_path / name
        folder.mkdir()
        run = {
            "config": CONFIG | settings,
            "fingerprint": "f00d",
            "versions": {"p2l": "0.1.0", "python": "3.11"},
        }
        (folder / "run.json").write_text(json.dumps(run))
        for place, shards in (("restored", restored), ("unfinished", unfinished or {})):
            for shard, rows in shards.items():
                file = folder / place / f"{shard}.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), file, row_group_size=rows_a_group)
        return str(folder)

    return write
