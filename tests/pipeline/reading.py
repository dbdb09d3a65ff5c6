"""What reading a shard gives: its rows, or why it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.input import sources
from pipeline.input.rows import InputRow, SourceError
from pipeline.input.sources import Shard, list_shards


def only(source: Path) -> Shard:
    (shard,) = list_shards([str(source)])
    return shard


def everything(source: Path) -> list[InputRow]:
    """Every row of the only shard of a source."""
    return rows_of(only(source))


def rows_of(shard: Shard) -> list[InputRow]:
    """Every row, each key of the shard once."""
    keys = sources.keys(shard)
    found = list(sources.rows(shard, [True] * len(keys)))
    assert [row.key for row in found] == keys
    return found


def refusal(source: Path) -> str:
    with pytest.raises(SourceError) as refused:
        sources.keys(only(source))
    assert str(source) in str(refused.value)
    return str(refused.value)
