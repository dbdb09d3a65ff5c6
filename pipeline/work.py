"""One shard's share of a run, and the tasks on it: read its rows, make its commits one file.

Tasks import no torch: a reader is a small process that starts in a fraction of a second.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipeline import lease, resume, retries, sources, storage, storage_options
from pipeline.sources import Shard
from pipeline.storage_options import Options

log = logging.getLogger(__name__)

TASK_CPUS = 0.5  # booked by each task; see `pipeline.cluster`
ROWS_AT_ONCE = 8  # read together; images are large


@dataclass(frozen=True)
class Work:
    """rows: in the shard. wanted: packed bits, one a row, of those to be restored. left: how many these are.

    What is wanted is fixed before reading starts: a read that Ray repeats after a lost node gives the same
    blocks, whatever was committed in the meantime.
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
        shard = Shard(item["name"], item["kind"], item["url"], tuple(item["files"]))
        return Work(shard, item["rows"], item["wanted"], item["left"])


def read(batch: pa.Table, stores: Options) -> Iterator[pa.Table]:
    """The wanted rows of one shard, a few at a time; `retries` names what was tried again to read a block."""
    storage_options.configure(stores)
    work = Work.of(batch.to_pylist()[0])
    flags = np.unpackbits(np.frombuffer(work.wanted, np.uint8), count=work.rows).astype(bool)
    retried = retries.Since()
    for block in sources.blocks(sources.rows(work.shard, flags.tolist()), ROWS_AT_ONCE):
        names = [retried.names(), *([] for _ in range(len(block) - 1))]
        yield block.append_column("retries", pa.array(names, retries.NAMES))


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
    lease.check(output, lease_id)
    resume.compact(output, shard.name, [str(key) for key in sources.keys(shard)])
    return retried.names()
