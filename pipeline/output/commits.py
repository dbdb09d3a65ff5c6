"""The output's columns, and commits: small Parquet files that appear whole or not at all.

An actor commits a block of rows before it takes the next one, so what a kill loses is the block in work. The
name of a commit is made from its keys: a block that is done again overwrites itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stores import retries, storage

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE_COLUMNS = ("image", "measurement", "reference")
HEAVY_COLUMNS = (*IMAGE_COLUMNS, "prompt_embedding")  # left out of metrics.parquet
TRY = ".try-"  # in the name of what tells that an item was begun; see `pipeline.worker.tries`
ROWS_IN_GROUP = 16  # images of a row group are read together; few keep a reader's memory small


def _list(of: pa.DataType) -> pa.DataType:
    """A list as Parquet names its elements, so that what is read has the schema that was written."""
    return pa.list_(pa.field("element", of))


_COLUMNS = {
    "key": pa.string(),
    "source_shard": pa.string(),
    "status": pa.string(),  # ok | error
    "error": pa.string(),  # "cause: details"; null where ok
    "warning": pa.string(),  # "cause: details" of what speaks against an ok row; null where nothing does
    "image": IMAGE,  # restored, PNG; null where error
    "measurement": IMAGE,  # what was restored from, rounded to 8 bits; null where it is no RGB picture
    "reference": IMAGE,  # the fitted original; null in mode `restore`
    "prompt_embedding": _list(_list(pa.float32())),  # (L, D) tuned, only when kept
    "width": pa.int32(),
    "height": pa.int32(),
    "psnr": pa.float64(),  # dB
    "ssim": pa.float64(),
    "lpips": pa.float64(),
    "residual": pa.float64(),  # root mean square of y - A x, in units of [-1, 1]
    "seconds": pa.float64(),  # of the micro-batch, shared equally among its images
    "nfe": pa.int64(),  # network evaluations
    "seed": pa.int64(),  # of this image, from the run's seed and the key
    "operator": pa.string(),  # JSON
    "method": pa.string(),  # JSON
    "model": pa.string(),
    "fingerprint": pa.string(),
}


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
LATER_COLUMNS = ("warning",)  # which outputs begun by earlier versions lack

Row = dict[str, Any]


def restored_url(output: str, shard: str) -> str:
    return storage.join(output, "restored", f"{shard}.parquet")


def unfinished_url(output: str, shard: str) -> str:
    return storage.join(output, "unfinished", shard)


def try_url(output: str, shard: str, item: str, number: int) -> str:
    return storage.join(unfinished_url(output, shard), f"{item}{TRY}{number}")


def commit_url(output: str, shard: str, keys: Sequence[str]) -> str:
    digest = hashlib.sha256("\0".join(keys).encode()).hexdigest()[:20]
    return storage.join(unfinished_url(output, shard), f"{digest}.parquet")


def open_writer(file: Any, schema: pa.Schema = OUTPUT_SCHEMA) -> pq.ParquetWriter:
    """zstd, but for images, which PNG has already compressed, and without a dictionary for them."""
    images = {f"{name}.bytes" for name in IMAGE_COLUMNS}
    columns = [column.path for column in _leaves(schema)]
    return pq.ParquetWriter(
        file,
        schema,
        compression={path: "none" if path in images else "zstd" for path in columns},
        use_dictionary=["source_shard", "status", "error", "operator", "method", "model", "fingerprint"],
        write_statistics=["key", "source_shard", "status", "psnr", "ssim", "residual"],
    )


def _leaves(schema: pa.Schema) -> list[Any]:
    parquet = pq.ParquetFile(pa.BufferReader(_empty(schema))).schema
    return [parquet.column(index) for index in range(len(parquet))]


def _empty(schema: pa.Schema) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return sink.getvalue()


def stored_columns(file: pq.ParquetFile, schema: pa.Schema) -> list[str]:
    """The columns of the schema that a file has: all of them, but perhaps for `LATER_COLUMNS`."""
    stored = file.schema_arrow.names
    return [name for name in schema.names if name in stored or name not in LATER_COLUMNS]


def with_later_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of `stored_columns` in the schema; null in columns that it lacks."""
    for name in set(schema.names) - set(table.column_names):
        table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
    return table.select(schema.names).cast(schema)


def commit(output: str, shard: str, rows: Sequence[Row]) -> None:
    """Writes finished rows of one shard to unfinished/<shard>/ as one file; patiently, for they cost much."""
    url = commit_url(output, shard, [row["key"] for row in rows])
    with retries.patient(), storage.write_whole(url) as file, open_writer(file) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=OUTPUT_SCHEMA), ROWS_IN_GROUP)
