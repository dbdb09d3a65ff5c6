"""Rows of a Parquet file: `key`, `image`, and optionally `mask`, `kernel`, `prompt`, or as a job names them.

A small file may hold a lot: a dictionary or a run length stands for any number of copies. So values are
decoded a few at a time, and measured before they become Python objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import limits
from pipeline.input.cells import as_bytes
from pipeline.input.columns import check_columns
from pipeline.input.rows import InputRow, Reading, SourceError, changed
from pipeline.messages import describe
from pipeline.stores import storage

BUFFER = 4 * 2**20  # bytes of a column read at a time; a row group may be larger than the memory
KEYS_AT_ONCE = 64  # decoded together
RAY_TENSORS = b"ray.data."  # what the names of its extension types begin with


def parquet_keys(url: str, reading: Reading) -> list[object]:
    """The keys as stored, whole numbers as text; None for each row where they are made of its number.

    Raises SourceError where the file cannot be read or a column it needs is missing.
    """
    try:
        with storage.open_read(url) as file:
            parquet = _open(file)
            check_columns(parquet.schema_arrow, reading)
            _check_counts(parquet, reading.image if reading.keys == "row" else reading.key)
            return _keys(parquet, range(parquet.num_row_groups), reading)
    except storage.StorageError:
        raise  # a store out of reach is no fault of the file
    except Exception as error:  # Arrow raises its own kinds and OSError for damaged files
        raise SourceError(f"{url}: cannot be read as Parquet: {describe(error)}") from error


def parquet_rows(url: str, shard: str, wanted: Sequence[bool], reading: Reading) -> Iterator[InputRow]:
    """The wanted rows; a row group whose data is damaged gives error rows.

    In memory are one page of a column, which is what Parquet decodes at once, and one row. Raises SourceError
    where there are not as many rows as flags.
    """
    with storage.open_read(url) as file:
        parquet = _open(file)
        if parquet.metadata.num_rows != len(wanted):
            raise changed(url)
        start = 0
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            flags = wanted[start : start + count]
            start += count
            if any(flags):
                yield from _group_rows(parquet, group, reading, shard, flags)


def _open(file: BinaryIO) -> pq.ParquetFile:
    parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)
    kinds = [(field.metadata or {}).get(b"ARROW:extension:name", b"") for field in parquet.schema_arrow]
    if any(kind.startswith(RAY_TENSORS) for kind in kinds):
        import ray.data  # noqa: F401  from here on Arrow knows its tensors, whose shape is in the type

        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)
    return parquet


def _check_counts(parquet: pq.ParquetFile, counted: str) -> None:
    """Raises ValueError where the counts of a footer disagree: Arrow would drop rows by the smallest.

    counted: the column that tells how many rows there are, where it has one value for each.
    """
    footer = parquet.metadata
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    if rows != footer.num_rows:
        raise ValueError(f"its footer states {footer.num_rows} rows, and {rows} in its row groups")
    columns = [footer.schema.column(index) for index in range(len(footer.schema))]
    single = [
        index
        for index, column in enumerate(columns)
        if column.path.split(".")[0] == counted.split(".")[0] and not column.max_repetition_level
    ]
    for number, group in enumerate(groups if single else ()):
        values = group.column(single[0]).num_values
        if values != group.num_rows:
            raise ValueError(
                f"its footer states {group.num_rows} rows and {values} of {counted} in row group {number}"
            )


def _keys(parquet: pq.ParquetFile, groups: Iterable[int], reading: Reading) -> list[object]:
    """The keys of some row groups. Raises ValueError for more than KEYS_BYTES, or other rows than stated."""
    if reading.keys == "row":
        return [None] * sum(parquet.metadata.row_group(group).num_rows for group in groups)
    keys: list[object] = []
    size = 0
    for group in groups:
        before = len(keys)
        for batch in parquet.iter_batches(KEYS_AT_ONCE, row_groups=[group], columns=[reading.key]):
            size += batch.nbytes
            if size > limits.KEYS_BYTES:
                raise ValueError(f"its keys take more than {limits.KEYS_BYTES:,} bytes; cut it into shards")
            keys += _decoded(batch.column(reading.key), len(keys))
        stated = parquet.metadata.row_group(group).num_rows
        if len(keys) - before != stated:
            raise ValueError(
                f"row group {group} has {len(keys) - before} keys; its footer states {stated} rows"
            )
    return keys


def _decoded(keys: pa.Array, row: int) -> list[object]:
    """Keys from `row` on as Python objects. Raises ValueError for text that is no UTF-8."""
    if pa.types.is_dictionary(keys.type):
        keys = keys.dictionary_decode()
    if pa.types.is_integer(keys.type):
        keys = keys.cast(pa.string())
    try:
        return keys.to_pylist()
    except UnicodeDecodeError as error:
        wrong = next(index for index, key in enumerate(keys) if not _is_utf8(key))
        raise ValueError(f"the key of row {row + wrong} is no UTF-8 text") from error


def _is_utf8(key: pa.Scalar) -> bool:
    try:
        key.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _group_rows(
    parquet: pq.ParquetFile, group: int, reading: Reading, shard: str, wanted: Sequence[bool]
) -> Iterator[InputRow]:
    keys = [str(key) for key in _keys(parquet, [group], reading)]
    names = parquet.schema_arrow.names
    columns = {role: column for role, column in reading.columns.items() if column in names and role != "key"}
    position = 0
    after = max(row for row, want in enumerate(wanted) if want) + 1
    cause = "its row group has fewer images than keys"
    try:
        for batch in parquet.iter_batches(1, row_groups=[group], columns=[*columns.values()]):
            if wanted[position]:
                yield _row(keys[position], batch, shard, columns)
            position += 1
            if position == after:
                break
    except storage.StorageError:
        raise  # a store out of reach is no fault of the rows
    except Exception as error:  # Arrow raises its own kinds, OSError and ValueError for damaged pages
        cause = describe(error)
    for key, want in zip(keys[position:], wanted[position:], strict=True):
        if want:
            yield InputRow.failed(key, shard, f"cannot read the row: {cause}")


def _row(key: str, cells: pa.RecordBatch, shard: str, columns: dict[str, str]) -> InputRow:
    """The row of a batch of one. columns: by role."""
    found: dict[str, object] = {}
    for role, name in columns.items():
        cell = cells.column(name)
        if pa.types.is_dictionary(cell.type):  # whose size would count for that of each value
            cell = cell.dictionary_decode()
        if cell.nbytes > limits.CELL_BYTES:
            error = f"{name} too large: {cell.nbytes:,} bytes; at most {limits.CELL_BYTES:,}"
            return InputRow.failed(key, shard, error)
        try:
            found[role] = (
                _text(cell[0].as_py()) if role == "prompt" else as_bytes(cell, pixels=role == "image")
            )
        except (
            Exception
        ) as error:  # of text that is no UTF-8, or any type that Arrow or an extension may bring
            return InputRow.failed(key, shard, f"{name} column cannot be used: {describe(error)}")
    if found["image"] is None:
        return InputRow.failed(key, shard, f"no image: its cell of column {columns['image']} is null")
    return InputRow(key, shard, **found)  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")
    return value
