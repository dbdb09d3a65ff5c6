"""Rows of a Parquet file: `key`, `image`, and optionally `mask`, `kernel`, `prompt`.

A small file may hold a lot: a dictionary or a run length stands for any number of copies. So values are
decoded a few at a time, and measured before they become Python objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import limits, storage
from pipeline.messages import describe
from pipeline.rows import InputRow, SourceError, as_bytes

BUFFER = 4 * 2**20  # bytes of a column read at a time; a row group may be larger than the memory
KEYS_AT_ONCE = 64  # decoded together
NEEDED = ("key", "image")
OPTIONAL = ("mask", "kernel", "prompt")


def parquet_keys(url: str) -> list[object]:
    """The `key` column. Raises SourceError where the file cannot be read or a column it needs is missing."""
    try:
        with storage.open_read(url) as file:
            parquet = _open(file)
            names = parquet.schema_arrow.names
            missing = [name for name in NEEDED if name not in names]
            if missing:
                raise ValueError(f"no column {' or '.join(missing)}; its columns are {', '.join(names)}")
            repeated = [name for name in (*NEEDED, *OPTIONAL) if names.count(name) > 1]
            if repeated:
                raise ValueError(f"more than one column {' and '.join(repeated)}")
            _check_counts(parquet.metadata)
            return _keys(parquet, range(parquet.num_row_groups))
    except storage.StorageError:
        raise  # a store out of reach is no fault of the file
    except Exception as error:  # Arrow raises its own kinds and OSError for damaged files
        raise SourceError(f"{url}: cannot be read as Parquet: {describe(error)}") from error


def parquet_rows(url: str, shard: str, wanted: Sequence[bool]) -> Iterator[InputRow]:
    """The wanted rows; a row group whose data is damaged gives error rows.

    In memory are one page of a column, which is what Parquet decodes at once, and one row.
    """
    with storage.open_read(url) as file:
        parquet = _open(file)
        columns = [name for name in ("image", *OPTIONAL) if name in parquet.schema_arrow.names]
        start = 0
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            flags = wanted[start : start + count]
            start += count
            if any(flags):
                yield from _group_rows(parquet, group, columns, shard, flags)


def _open(file: BinaryIO) -> pq.ParquetFile:
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)


def _check_counts(footer: pq.FileMetaData) -> None:
    """Raises ValueError where the counts of a footer disagree: Arrow would drop rows by the smallest."""
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    if rows != footer.num_rows:
        raise ValueError(f"its footer states {footer.num_rows} rows, and {rows} in its row groups")
    paths = [footer.schema.column(index).path for index in range(len(footer.schema))]
    for number, group in enumerate(groups if "key" in paths else ()):
        keys = group.column(paths.index("key")).num_values
        if keys != group.num_rows:
            raise ValueError(f"its footer states {group.num_rows} rows and {keys} keys in row group {number}")


def _keys(parquet: pq.ParquetFile, groups: Iterable[int]) -> list[object]:
    """The keys of some row groups. Raises ValueError for more than KEYS_BYTES, or other rows than stated."""
    keys: list[object] = []
    size = 0
    for group in groups:
        before = len(keys)
        for batch in parquet.iter_batches(KEYS_AT_ONCE, row_groups=[group], columns=["key"]):
            size += batch.nbytes
            if size > limits.KEYS_BYTES:
                raise ValueError(f"its keys take more than {limits.KEYS_BYTES:,} bytes; cut it into shards")
            keys += _decoded(batch.column("key"), len(keys))
        stated = parquet.metadata.row_group(group).num_rows
        if len(keys) - before != stated:
            raise ValueError(
                f"row group {group} has {len(keys) - before} keys; its footer states {stated} rows"
            )
    return keys


def _decoded(keys: pa.Array, row: int) -> list[object]:
    """Keys from `row` on as Python objects. Raises ValueError for text that is no UTF-8."""
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
    parquet: pq.ParquetFile, group: int, columns: list[str], shard: str, wanted: Sequence[bool]
) -> Iterator[InputRow]:
    keys = [str(key) for key in _keys(parquet, [group])]
    position = 0
    after = max(row for row, want in enumerate(wanted) if want) + 1
    cause = "its row group has fewer images than keys"
    try:
        for batch in parquet.iter_batches(1, row_groups=[group], columns=columns):
            if wanted[position]:
                yield _row(keys[position], batch, shard)
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


def _row(key: str, cells: pa.RecordBatch, shard: str) -> InputRow:
    """The row of a batch of one."""
    found: dict[str, object] = {}
    for name in cells.schema.names:
        cell = cells.column(name)
        if pa.types.is_dictionary(cell.type):  # whose size would count for that of each value
            cell = cell.dictionary_decode()
        if cell.nbytes > limits.CELL_BYTES:
            error = f"{name} too large: {cell.nbytes:,} bytes; at most {limits.CELL_BYTES:,}"
            return InputRow.failed(key, shard, error)
        try:
            found[name] = _text(cell[0].as_py()) if name == "prompt" else as_bytes(cell[0].as_py())
        except (
            Exception
        ) as error:  # of text that is no UTF-8, or any type that Arrow or an extension may bring
            return InputRow.failed(key, shard, f"{name} column cannot be used: {describe(error)}")
    return InputRow(key, shard, **found)  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")
    return value
