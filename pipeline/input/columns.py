"""Which columns a Parquet file has to have, and what to say where it has others."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.input.rows import Reading


def check_columns(schema: pa.Schema, reading: Reading) -> None:
    """Raises ValueError, with every problem at once, for columns that are missing or there twice.

    Needed are the image, the key unless it is made of the row's number, and each column that is named
    otherwise than its role. Names are compared letter for letter.
    """
    names = schema.names
    needed = {"image"} if reading.keys == "row" else {"key", "image"}
    missing = {
        role: column
        for role, column in reading.columns.items()
        if column not in names and (role in needed or column != role)
    }
    if missing:
        hints = [_hint(role, column, schema) for role, column in missing.items()]
        raise ValueError(
            f"no column {' or '.join(missing.values())}; its columns are {', '.join(names)}. "
            + ". ".join(hints)
        )
    repeated = sorted({column for column in reading.columns.values() if names.count(column) > 1})
    if repeated:
        raise ValueError(f"more than one column {' and '.join(repeated)}")


def _hint(role: str, column: str, schema: pa.Schema) -> str:
    near = _near(column, schema.names)
    if near is None and role == "image":
        near = next((field.name for field in schema if _holds_bytes(field.type)), None)
    named = f"set `columns: {{{role}: {near or '...'}}}` (p2l shard: --columns {role}={near or '...'})"
    if near:
        return f"For the {role} did you mean {near}? Then {named}"
    if role == "key":
        return (
            f"For the key {named}, or `keys: row` (--keys row), which makes keys of the shard's name and the "
            "row's number"
        )
    return f"For the {role} {named}"


def _near(column: str, names: Sequence[str]) -> str | None:
    """The name that was most likely meant: the same but for its case, or a few letters off."""
    from p2l_engine.mistakes import nearest  # brings torch, which a task that reads can do without

    lower = {name.lower(): name for name in names}
    near = nearest(column.lower(), lower)
    return lower[near] if near else None


def _holds_bytes(kind: pa.DataType) -> bool:
    is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return is_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
