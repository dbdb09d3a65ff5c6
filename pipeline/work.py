"""One shard's share of a run, the items of it that actors take, and the task that makes its commits one file.

The task imports no torch: its process starts in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipeline import lease, resume, retries, sources, storage, storage_options
from pipeline.rows import Reading
from pipeline.sources import Shard
from pipeline.storage_options import Options

log = logging.getLogger(__name__)

TASK_CPUS = 0.5  # booked by each task; see `pipeline.cluster`


@dataclass(frozen=True)
class Work:
    """rows: in the shard. wanted: packed bits, one a row, of those to be restored. left: how many these are.

    What is wanted is fixed before reading starts: an item that Ray repeats after a lost node is the same,
    whatever was committed in the meantime.
    """

    shard: Shard
    rows: int
    wanted: bytes
    left: int

    def item(self) -> dict[str, Any]:
        """As a row of a Ray Dataset."""
        return asdict(self.shard) | {"rows": self.rows, "wanted": self.wanted, "left": self.left}

    @staticmethod
    def of(item: Mapping[str, Any]) -> Work:
        reading = Reading(**item["reading"])
        shard = Shard(item["name"], item["kind"], item["url"], tuple(map(tuple, item["files"])), reading)
        return Work(shard, item["rows"], item["wanted"], item["left"])

    def items(self, size: int) -> Iterator[Item]:
        """The wanted rows in order, at most `size` to an item; of a folder each has only its own files."""
        flags = np.unpackbits(np.frombuffer(self.wanted, np.uint8), count=self.rows)
        numbers = np.flatnonzero(flags).tolist()
        for start in range(0, len(numbers), size):
            rows = tuple(numbers[start : start + size])
            if self.shard.files and self.shard.reading.keys != "row":  # which needs the numbers of all rows
                files = tuple(self.shard.files[row] for row in rows)
                yield Item(replace(self.shard, files=files), len(rows), tuple(range(len(rows))))
            else:
                yield Item(self.shard, self.rows, rows)


@dataclass(frozen=True)
class Item:
    """What an actor takes at a time: wanted rows of one shard. rows: in the shard. wanted: their numbers."""

    shard: Shard
    rows: int
    wanted: tuple[int, ...]

    @property
    def id(self) -> str:
        """20 hexadecimal digits; another for each item of a shard."""
        return hashlib.sha256(repr((self.shard.files, self.wanted)).encode()).hexdigest()[:20]

    @property
    def flags(self) -> list[bool]:
        """Whether it is wanted, of each row of the shard."""
        flags = np.zeros(self.rows, bool)
        flags[list(self.wanted)] = True
        return list(flags.tolist())

    def rows_alone(self) -> list[Item]:
        """An item for each row."""
        return [replace(self, wanted=(row,)) for row in self.wanted]

    def packed(self) -> dict[str, bytes]:
        """As a row of a Ray Dataset."""
        return {"item": pickle.dumps(self)}

    @staticmethod
    def of(block: pa.Table) -> Item:
        """The item of a block of one."""
        (packed,) = block.column("item").to_pylist()
        item: Item = pickle.loads(packed)
        return item


class Compaction:
    """Counts down each shard's rows and, when none is left, makes it one file in a Ray task."""

    def __init__(self, output: str, work: Sequence[Work], lease_id: str, stores: Options) -> None:
        self.retries: Counter[str] = Counter()  # of the tasks, by the name of the error
        self._output, self._lease_id, self._stores = output, lease_id, stores
        self._shards = {item.shard.name: item.shard for item in work}
        self._left = {item.shard.name: item.left for item in work}
        self._at_work = {self._start(name): name for name, left in self._left.items() if not left}

    def count(self, receipts: pa.Table) -> None:
        """Takes note of committed rows, by their column `source_shard`."""
        for counted in receipts.column("source_shard").value_counts().to_pylist():
            name = counted["values"]
            self._left[name] -= counted["counts"]
            if not self._left[name]:
                self._at_work[self._start(name)] = name
        self._take_note(timeout=0)

    def finish(self) -> None:
        """Waits for all; raises what one of them raised."""
        self._take_note(timeout=None)
        storage.remove_empty_folder(storage.join(self._output, "unfinished"))

    def _start(self, name: str) -> ray.ObjectRef:
        task = _compact.options(num_cpus=TASK_CPUS)
        return task.remote(self._output, self._shards[name], self._lease_id, self._stores)

    def _take_note(self, timeout: float | None) -> None:
        """Of the shards that became one file, within seconds or, None, of all; raises what failed."""
        tasks = list(self._at_work)
        done = ray.wait(tasks, num_returns=len(tasks), timeout=timeout)[0] if tasks else []
        for task, names in zip(done, ray.get(done), strict=True):
            self.retries.update(names)
            log.info("shard whole", extra={"shard": self._at_work.pop(task)})


@ray.remote
def _compact(output: str, shard: Shard, lease_id: str, stores: Options) -> list[str]:
    storage_options.configure(stores)
    retried = retries.Since()
    with retries.patient():  # one that gave up would end the run
        lease.check(output, lease_id)
        resume.compact(output, shard.name, [str(key) for key in sources.keys(shard)])
    return retried.names()
