"""One shard's share of a run, and the tasks on it: read its rows, make its commits one file.

Tasks import no torch: a reader is a small process that starts in a fraction of a second.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipeline import lease, resume, sources, storage
from pipeline.sources import Shard

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


def read(batch: pa.Table) -> Iterator[pa.Table]:
    """The wanted rows of one shard, a few at a time."""
    work = Work.of(batch.to_pylist()[0])
    flags = np.unpackbits(np.frombuffer(work.wanted, np.uint8), count=work.rows).astype(bool)
    yield from sources.blocks(sources.rows(work.shard, flags.tolist()), ROWS_AT_ONCE)


class Compaction:
    """Counts down each shard's rows and, when none is left, makes it one file in a Ray task."""

    def __init__(self, output: str, work: Sequence[Work], lease_id: str) -> None:
        self._output = output
        self._lease_id = lease_id
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
        self._log_whole()

    def finish(self) -> None:
        """Waits for all; raises what one of them raised."""
        ray.get(list(self._at_work))
        self._log_whole()
        storage.remove_empty_folder(storage.join(self._output, "unfinished"))

    def _start(self, name: str) -> ray.ObjectRef:
        return _compact.options(num_cpus=TASK_CPUS).remote(self._output, self._shards[name], self._lease_id)

    def _log_whole(self) -> None:
        """Logs the shards that became one file since the last call; raises what failed."""
        tasks = list(self._at_work)
        done = ray.wait(tasks, num_returns=len(tasks), timeout=0)[0] if tasks else []
        ray.get(done)
        for task in done:
            log.info("shard whole", extra={"shard": self._at_work.pop(task)})


@ray.remote
def _compact(output: str, shard: Shard, lease_id: str) -> None:
    lease.check(output, lease_id)
    resume.compact(output, shard.name, [str(key) for key in sources.keys(shard)])
