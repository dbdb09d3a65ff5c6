"""Output folders made of real photographs, as a run would leave them."""

from __future__ import annotations

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
from pipeline.config import load_config
from pipeline.output.columns import METRICS_SCHEMA, OUTPUT_SCHEMA
from pipeline.pictures.images import encode_png

Row = dict[str, Any]
SIDE, FACTOR = 48, 4


def png(pixels: np.ndarray) -> dict[str, Any]:
    return {"bytes": encode_png(pixels), "path": None}


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

    def build(key: str, index: int = 0, side: int = SIDE, factor: int = FACTOR, **changes: Any) -> Row:
        reference = photograph(index, side)
        pooled = reference.reshape(side // factor, factor, side // factor, factor, 3).mean((1, 3)).round()
        measurement = pooled.astype(np.uint8)
        image = np.asarray(Image.fromarray(measurement).resize((side, side), Image.Resampling.BICUBIC))
        row = {
            "key": key,
            "status": "ok",
            "image": png(image),
            "measurement": png(measurement),
            "reference": png(reference),
            "width": side,
            "height": side,
            "psnr": psnr(reference, image),
            "ssim": ssim(reference, image),
            "residual": 0.02 + 0.001 * (index % 7),
            "seconds": 2.0 + 0.1 * (index % 5),
            "nfe": 400,
            "seed": index,
        }
        return row | changes

    return build


@pytest.fixture(scope="session")
def error_row() -> Callable[..., Row]:
    def build(key: str, error: str = "cannot decode the image: truncated file", **changes: Any) -> Row:
        return {"key": key, "status": "error", "error": error} | changes

    return build


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., str]:
    """Write rows by shard as an input and an output folder; settings given replace those of the job.

    The input holds the reference of each row, or bytes that are no image for a row without one.
    """

    def write(
        restored: Mapping[str, Sequence[Row]],
        unfinished: Mapping[str, Sequence[Row]] | None = None,
        *,
        name: str = "run",
        **settings: Any,
    ) -> str:
        inputs, folder = tmp_path / f"{name}-input", tmp_path / name
        inputs.mkdir(parents=True)
        job = {
            "input": str(inputs),
            "output": str(folder),
            "model": "CompVis/stable-diffusion-v1-4",
            "size": SIDE,
            "operator": {"name": "super_resolution", "factor": FACTOR},
            "method": {"name": "p2l", "steps": 200},
        }
        config = load_config(job | settings)
        filled = {
            "model": "tiny",
            "operator": json.dumps(config.operator.model_dump(mode="json")),
            "method": json.dumps(config.method.model_dump(mode="json")),
        }
        filled["fingerprint"] = config.fingerprint
        for place, shards in (("restored", restored), ("unfinished", unfinished or {})):
            for shard, rows in shards.items():
                file = folder / place / f"{shard}.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                stored = [{"source_shard": shard.split("/")[0]} | filled | row for row in rows]
                pq.write_table(pa.Table.from_pylist(stored, OUTPUT_SCHEMA), file, row_group_size=4)
                given = [(row["key"], (row.get("reference") or {"bytes": b"?"})["bytes"]) for row in rows]
                table = pa.table({"key": [key for key, _ in given], "image": [image for _, image in given]})
                pq.write_table(table, inputs / f"{shard.split('/')[0]}.parquet")
        every = [filled | row for rows in restored.values() for row in rows]
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(every, METRICS_SCHEMA), folder / "metrics.parquet")
        run = {"config": config.model_dump(mode="json"), "fingerprint": config.fingerprint}
        (folder / "run.json").write_text(json.dumps(run | {"versions": {"python": "3.11"}}))
        (folder / "summary.json").write_text(json.dumps(summary_of(every)))
        return str(folder)

    return write


def summary_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The part of a run's summary.json that a report or a check reads."""
    return {"rows": len(rows), "this_start": {"rows": len(rows), "seconds": 3600.0}}
