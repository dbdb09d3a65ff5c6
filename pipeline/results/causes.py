"""Rows by the cause of their error or warning, for summary.json and the page."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa

from pipeline.messages import cause


@dataclass(frozen=True)
class Cause:
    """Rows whose messages have one cause. example: the first message. keys: of the first rows."""

    cause: str
    count: int
    example: str
    keys: tuple[str, ...]


def by_cause(rows: pa.Table, column: str, shown: int) -> list[Cause]:
    """Rows by the cause that stands in a column, the most frequent first; at most `shown` keys of each."""
    keys: dict[str, list[str]] = defaultdict(list)
    example: dict[str, str] = {}
    for key, found in zip(rows.column("key").to_pylist(), rows.column(column).to_pylist(), strict=True):
        message = found or "no message"
        keys[cause(message)].append(key)
        example.setdefault(cause(message), message)
    most_first = sorted(keys, key=lambda name: -len(keys[name]))
    return [Cause(name, len(keys[name]), example[name], tuple(keys[name][:shown])) for name in most_first]
