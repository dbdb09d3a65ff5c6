"""The columns of an output's rows: the metrics, and all as Arrow and the `datasets` library know them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE_COLUMNS = ("image", "measurement", "reference", "deviation")
HEAVY_COLUMNS = (*IMAGE_COLUMNS, "prompt_embedding")  # left out of metrics.parquet
ROWS_IN_GROUP = 16  # images of a row group are read together; few keep a reader's memory small

Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A number of a restored image. decimals: that are shown, or None for three significant digits.

    needs_reference: it is `p2l_engine.metrics.<column>` of the original and the restored image; null where
    there is no original.
    """

    column: str
    title: str
    unit: str
    decimals: int | None
    needs_reference: bool
    higher_is_better: bool

    @property
    def heading(self) -> str:
        return f"{self.title} {self.unit}".strip()


METRICS = (
    Metric("psnr", "PSNR", "dB", 2, needs_reference=True, higher_is_better=True),
    Metric("ssim", "SSIM", "", 3, needs_reference=True, higher_is_better=True),
    # Root mean square of y - A x, in units of [-1, 1].
    Metric("residual", "Residual", "", None, needs_reference=False, higher_is_better=False),
    # Of the micro-batch, shared equally among its images.
    Metric("seconds", "Time", "s", None, needs_reference=False, higher_is_better=False),
)
METRIC_COLUMNS = tuple(metric.column for metric in METRICS)


def _list(of: pa.DataType) -> pa.DataType:
    """A list as Parquet names its elements, so that what is read has the schema that was written."""
    return pa.list_(pa.field("element", of))


_COLUMNS = {
    "key": pa.string(),
    "source_shard": pa.string(),
    "status": pa.string(),  # ok | error
    "error": pa.string(),  # "cause: details"; null where ok
    "warning": pa.string(),  # "cause: details" of what speaks against an ok row; null where nothing does
    "caption": pa.string(),  # that its prompt was made of; null without captions
    "prompt": pa.string(),  # that it was restored with; null without text, or where it began at an embedding
    "image": IMAGE,  # restored, PNG; null where error
    "measurement": IMAGE,  # what was restored from, rounded to 8 bits; null where it is no RGB picture
    "reference": IMAGE,  # the fitted original; null in mode `restore`
    "deviation": IMAGE,  # of the samples at each pixel, in levels of 0 to 255; only when kept
    "prompt_embedding": _list(_list(pa.float32())),  # (L, D) tuned, only when kept
    "width": pa.int32(),
    "height": pa.int32(),
    **dict.fromkeys(METRIC_COLUMNS, pa.float64()),
    "measured": pa.int64(),  # numbers of the measurement, holes left out
    "nfe": pa.int64(),  # network evaluations
    "seed": pa.int64(),  # of this image, from the run's seed and the key
    "operator": pa.string(),  # JSON
    "method": pa.string(),  # JSON
    "model": pa.string(),
    "fingerprint": pa.string(),
}
LATER_COLUMNS = (
    "warning",
    "caption",
    "prompt",
    "deviation",
    "measured",
)  # which outputs begun by earlier versions lack


def _hugging_face_features() -> dict[str, Any]:
    """The `datasets` library takes a column's type from here; that is how it knows an image from a struct.

    `Sequence` is the word for a list that every version reads; `List` came with its version 4.
    """
    number = {"dtype": "float32", "_type": "Value"}
    lists = {"feature": {"feature": number, "_type": "Sequence"}, "_type": "Sequence"}
    features: dict[str, Any] = {
        name: {"dtype": str(kind), "_type": "Value"} for name, kind in _COLUMNS.items()
    }
    features |= {
        name: {"dtype": "float64", "_type": "Value"}
        for name, kind in _COLUMNS.items()
        if kind == pa.float64()
    }
    features |= {name: {"_type": "Image"} for name in IMAGE_COLUMNS}
    return features | {"prompt_embedding": lists}


def _schema(names: Iterable[str]) -> pa.Schema:
    features = _hugging_face_features()
    info = json.dumps({"info": {"features": {name: features[name] for name in names}}})
    return pa.schema([(name, _COLUMNS[name]) for name in names], metadata={"huggingface": info})


OUTPUT_SCHEMA = _schema(_COLUMNS)
METRICS_SCHEMA = _schema([name for name in _COLUMNS if name not in HEAVY_COLUMNS])


def completed(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The named columns, null where the table lacks one."""
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table)))
    return table.select(names)


def missing(stored: Sequence[str]) -> list[str]:
    """The columns that an output's file should have and lacks."""
    return [name for name in OUTPUT_SCHEMA.names if name not in stored and name not in LATER_COLUMNS]


def open_writer(file: Any, schema: pa.Schema = OUTPUT_SCHEMA) -> pq.ParquetWriter:
    """zstd, but for images, which PNG has already compressed, and without a dictionary for them."""
    images = {f"{name}.bytes" for name in IMAGE_COLUMNS}
    paths = [column.path for column in _leaves(schema)]
    return pq.ParquetWriter(
        file,
        schema,
        compression={path: "none" if path in images else "zstd" for path in paths},
        use_dictionary=["source_shard", "status", "error", "operator", "method", "model", "fingerprint"],
        write_statistics=["key", "source_shard", "status", *METRIC_COLUMNS],
    )


def _leaves(schema: pa.Schema) -> list[Any]:
    parquet = pq.ParquetFile(pa.BufferReader(_empty(schema))).schema
    return [parquet.column(index) for index in range(len(parquet))]


def _empty(schema: pa.Schema) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return sink.getvalue()
