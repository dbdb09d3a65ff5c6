"""The tasks that make a shard's commits one file as soon as its last row is there.

They import no torch: their process starts in a fraction of a second.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import ray

from pipeline.cluster.ray_start import TASK_CPUS
from pipeline.input import sources
from pipeline.input.sources import Shard
from pipeline.output import lease
from pipeline.output.compact import compact
from pipeline.output.folder import UNFINISHED, OutputFolder
from pipeline.stores import retries, storage, storage_options
from pipeline.stores.storage_options import Options
from pipeline.worker.items import Work

log = logging.getLogger(__name__)


class Compaction:
    """Counts down each shard's rows and, when none is left, makes it one file in a Ray task."""

    def __init__(self, output: OutputFolder, work: Sequence[Work], lease_id: str, stores: Options) -> None:
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
        storage.remove_empty_folder(self._output.at(UNFINISHED))

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
def _compact(output: OutputFolder, shard: Shard, lease_id: str, stores: Options) -> list[str]:
    storage_options.configure(stores)
    retried = retries.Since()
    with retries.patient():  # one that gave up would end the run
        lease.check(output, lease_id)
        compact(output, shard.name, [str(key) for key in sources.keys(shard)])
    return retried.names()
