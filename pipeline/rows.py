"""The row that travels from a source to an actor."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from pipeline.messages import readable

INPUT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source_shard", pa.string()),
        ("image", pa.binary()),
        ("mask", pa.binary()),
        ("kernel", pa.binary()),
        ("prompt", pa.string()),
        ("error", pa.string()),
    ]
)


class SourceError(ValueError):
    """An input that cannot be listed or read, or whose keys are wrong; the message names it."""


@dataclass(frozen=True)
class InputRow:
    """image, mask, kernel: encoded images, or arrays as .npy bytes. error: why the row cannot be read."""

    key: str
    source_shard: str
    image: bytes | None = None
    mask: bytes | None = None
    kernel: bytes | None = None
    prompt: str | None = None
    error: str | None = None

    @staticmethod
    def failed(key: str, source_shard: str, error: str) -> InputRow:
        """A row that cannot be read, and why."""
        return InputRow(key, source_shard, error=readable(error))

    @staticmethod
    def table(found: Sequence[InputRow]) -> pa.Table:
        return pa.Table.from_pylist([asdict(row) for row in found], schema=INPUT_SCHEMA)


def as_bytes(value: object) -> bytes | None:
    """A cell of an input table as bytes: bytes, Hugging Face's struct of bytes and path, or nested numbers.

    Numbers become a .npy file. Raises ValueError or TypeError for anything else.
    """
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes | None) and "bytes" in value:
        return value["bytes"]
    if isinstance(value, list):
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(value, dtype=np.float32), allow_pickle=False)
        return buffer.getvalue()
    raise ValueError(f"expected bytes, a struct of bytes, or nested numbers, got {type(value).__name__}")
