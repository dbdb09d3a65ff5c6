"""One shard's share of a run, and the items of it that actors take."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.input.keys import key_hash
from pipeline.input.rows import InputRow, Reading, changed
from pipeline.input.sources import Shard


@dataclass(frozen=True)
class Work:
    """rows: in the shard. wanted: packed bits, one a row, of those to be restored. left: how many these are.

    hashes: 8 bytes a row, of its key.

    What is wanted is fixed before reading starts: an item that Ray repeats after a lost node is the same,
    whatever was committed in the meantime.
    """

    shard: Shard
    rows: int
    wanted: bytes
    left: int
    hashes: bytes

    def item(self) -> dict[str, Any]:
        """As a row of a Ray Dataset."""
        of_rows = {"rows": self.rows, "wanted": self.wanted, "left": self.left, "hashes": self.hashes}
        return asdict(self.shard) | of_rows

    @staticmethod
    def of(item: Mapping[str, Any]) -> Work:
        reading = Reading(**item["reading"])
        shard = Shard(item["name"], item["kind"], item["url"], tuple(map(tuple, item["files"])), reading)
        return Work(shard, item["rows"], item["wanted"], item["left"], item["hashes"])

    def to_caption(self) -> Item:
        """All rows of the shard."""
        hashes = tuple(np.frombuffer(self.hashes, np.uint64).tolist())
        return Item(self.shard, self.rows, tuple(range(self.rows)), hashes, stage="captions-")

    def items(self, size: Callable[[int], int]) -> Iterator[Item]:
        """The wanted rows in order, at most `size(rows taken before)` to an item.

        Of a folder each has only its own files.
        """
        flags = np.unpackbits(np.frombuffer(self.wanted, np.uint8), count=self.rows)
        numbers = np.flatnonzero(flags)
        hashes = np.frombuffer(self.hashes, np.uint64)
        start = 0
        while rows := tuple((part := numbers[start : start + size(start)]).tolist()):
            start += len(rows)
            keys = tuple(hashes[part].tolist())
            if self.shard.files and self.shard.reading.keys != "row":  # which needs the numbers of all rows
                files = tuple(self.shard.files[row] for row in rows)
                yield Item(replace(self.shard, files=files), len(rows), tuple(range(len(rows))), keys)
            else:
                yield Item(self.shard, self.rows, rows, keys)


@dataclass(frozen=True)
class Item:
    """What an actor takes at a time: wanted rows of one shard.

    rows: in the shard. wanted: their numbers. hashes: of their keys, when the run began. stage: of the run.
    """

    shard: Shard
    rows: int
    wanted: tuple[int, ...]
    hashes: tuple[int, ...]
    stage: Literal["", "captions-"] = ""

    @property
    def id(self) -> str:
        """The stage, and 20 hexadecimal digits; another for each item of a shard."""
        return self.stage + hashlib.sha256(repr((self.shard.files, self.wanted)).encode()).hexdigest()[:20]

    @property
    def flags(self) -> list[bool]:
        """Whether it is wanted, of each row of the shard."""
        flags = np.zeros(self.rows, bool)
        flags[list(self.wanted)] = True
        return list(flags.tolist())

    def rows_alone(self) -> list[Item]:
        """An item for each row."""
        rows = zip(self.wanted, self.hashes, strict=True)
        return [replace(self, wanted=(row,), hashes=(key,)) for row, key in rows]

    def checked(self, rows: Iterable[InputRow]) -> Iterator[InputRow]:
        """Its rows as they are read. Raises SourceError where they are others than when the run began."""
        for row, key in zip(rows, self.hashes, strict=True):
            if key_hash(row.key) != key:
                raise changed(self.shard.url)
            yield row

    def packed(self) -> dict[str, bytes]:
        """As a row of a Ray Dataset."""
        return {"item": pickle.dumps(self)}

    @staticmethod
    def of(block: pa.Table) -> Item:
        """The item of a block of one."""
        (packed,) = block.column("item").to_pylist()
        item: Item = pickle.loads(packed)
        return item
