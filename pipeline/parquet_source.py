"""Rows of a Parquet file: `key`, `image`, and optionally `mask`, `kernel`, `prompt`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.rows import InputRow, SourceError, as_bytes

ROWS_AT_ONCE = 16  # decoded together; images are large
BUFFER = 4 * 2**20  # bytes of a column read at a time: a row group may be larger than the memory
OPTIONAL = ("mask", "kernel", "prompt")


def parquet_keys(url: str) -> list[object]:
    """The `key` column. Raises SourceError where the file or one of its needed columns is missing."""
    try:
        with storage.open_read(url) as file:
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            missing = [name for name in ("key", "image") if name not in names]
            if missing:
                raise SourceError(
                    f"{url}: no column {' or '.join(missing)}; its columns are {', '.join(names)}"
                )
            return parquet.read(columns=["key"]).column("key").to_pylist()
    except (SourceError, storage.StorageError):
        raise
    except Exception as error:  # Arrow raises its own kinds and OSError for damaged files
        raise SourceError(f"{url}: cannot be read as Parquet: {error}") from error


def parquet_rows(url: str, shard: str, wanted: Sequence[bool]) -> Iterator[InputRow]:
    """The wanted rows; a row group whose data is damaged gives error rows.

    In memory are one page of a column, which is what Parquet decodes at once, and `ROWS_AT_ONCE` rows.
    """
    with storage.open_read(url) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)
        columns = ["key", "image", *(name for name in OPTIONAL if name in parquet.schema_arrow.names)]
        start = 0
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            yield from _group_rows(parquet, group, columns, shard, wanted[start : start + count])
            start += count


def _group_rows(
    parquet: pq.ParquetFile, group: int, columns: list[str], shard: str, wanted: Sequence[bool]
) -> Iterator[InputRow]:
    if not any(wanted):
        return
    position = 0
    try:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
            for index in range(batch.num_rows):
                if wanted[position]:
                    yield _row(batch.slice(index, 1).to_pylist()[0], shard)
                position += 1
    except storage.StorageError:
        raise  # a store out of reach is no fault of the rows
    except Exception as error:  # Arrow raises its own kinds, OSError and ValueError for damaged pages
        keys = parquet.read_row_group(group, columns=["key"]).column("key").to_pylist()
        for key, want in zip(keys[position:], wanted[position:], strict=True):
            if want:
                yield InputRow(key=key, source_shard=shard, error=f"cannot read the row: {error}")


def _row(cells: dict[str, object], shard: str) -> InputRow:
    key = str(cells["key"])
    prompt = cells.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        return InputRow(key=key, source_shard=shard, error=f"prompt is not text: got {type(prompt).__name__}")
    found: dict[str, bytes | None] = {}
    for name in ("image", "mask", "kernel"):
        try:
            found[name] = as_bytes(cells.get(name))
        except ValueError as error:
            return InputRow(key=key, source_shard=shard, error=f"{name} column cannot be used: {error}")
    return InputRow(key, shard, found["image"], found["mask"], found["kernel"], prompt)
