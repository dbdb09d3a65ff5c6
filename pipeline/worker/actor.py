"""The actor: items of work in, committed rows out, and receipts to the driver."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from threading import Lock
from typing import Any

import pyarrow as pa

from pipeline.cluster import board, crew
from pipeline.cluster.heartbeat import Heartbeat
from pipeline.cluster.starting import started
from pipeline.config import JobConfig
from pipeline.input import sources
from pipeline.input.rows import InputRow, SourceError
from pipeline.input.tar_rows import tar_samples
from pipeline.observe import logs
from pipeline.observe.prometheus import ActorMetrics
from pipeline.output import commits, lease
from pipeline.output.columns import Row
from pipeline.output.folder import OutputFolder
from pipeline.stores import retries, storage_options
from pipeline.worker import tries
from pipeline.worker.ahead import ahead
from pipeline.worker.items import Item
from pipeline.worker.options import ActorOptions
from pipeline.worker.receipts import RECEIPT_SCHEMA, Worker
from pipeline.worker.restore import Restorer
from pipeline.worker.room import Room
from pipeline.worker.tries import Tried

log = logging.getLogger(__name__)

COMMIT_SECONDS = 300.0  # restored rows wait for the rest of their item so long, and are committed then
TARS_KEPT = 2  # whose headers are in memory: an actor's next item is mostly of the same shard


class RestoreAndCommit:
    """What Ray Data runs: reads an item's rows, restores and commits them, and hands on receipts.

    Two threads call it, each with an item: while one is restored, the other is encoded and committed, or
    read. Each commits its item before it takes the next one, so that a kill loses the item on the device and
    what is encoded at that moment. Rows of an item begun before that stand in the output are not restored
    again.
    """

    def __init__(self, config: JobConfig, options: ActorOptions, retry_errors: bool, lease_id: str) -> None:
        storage_options.configure(config.storage)
        logs.of_worker(config.fingerprint)
        self.worker = Worker()
        self.metrics = ActorMetrics(config.fingerprint, options.device)
        self.lease_id = lease_id
        self.output = OutputFolder(config.output)
        self.retry_errors = retry_errors
        self.retried = retries.Since()
        self._heartbeat = Heartbeat(self.metrics.stepped)
        self._heartbeat.watch(self._told)
        self.restorer = started(
            lambda: Restorer(config, options, self._heartbeat), options.device, lease_id, self.worker.node
        )
        self._heartbeat.ready = True
        self._room, self._telling = Room(), Lock()
        self._tried = Tried(self.output, lease_id, self.worker.node)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._samples = lru_cache(TARS_KEPT)(tar_samples)

    @retries.patient()  # an actor that gave up would end the run, and the work of all the others
    def __call__(self, block: pa.Table) -> pa.Table:
        item = Item.of(block)
        lease.check(self.output, self.lease_id)  # before work that could not be committed
        before = tries.before(self.output, item)
        # What ended its process may do so again, which must not count as another's doing.
        try:
            with self._room.entered(alone=bool(before)):
                found = self._finished(item, bool(before))
        except SourceError as error:
            raise SourceError(f"{error}; give the same command again") from error
        shared = {
            "source_shard": item.shard.name,
            "micro_batch": self.restorer.micro_batch,
            "checkpointing": self.restorer.checkpointing,
            "retries": [],
        }
        receipts = [row | shared | self.worker.columns() for row in found]
        with self._telling:
            receipts[0]["retries"] = self.retried.names()
        return pa.Table.from_pylist(receipts, schema=RECEIPT_SCHEMA)

    def _told(self, state: dict[str, Any]) -> None:
        """Of each sign of life."""
        self.metrics.alive()
        board.put(self.lease_id, crew.TOPIC, self.worker.name, state)

    def _finished(self, item: Item, begun: bool) -> list[Row]:
        """The item's rows, once they are in the output. begun: before, by a process that ended."""
        done = self._committed(item.shard.name) if begun else {}

        def condemned(single: Item, message: str) -> Row:
            (row,) = single.checked(sources.bare_rows(single.shard, single.flags))  # its picture may end us
            if row.key in done:
                return done[row.key]
            (told,) = self._commit(single.shard.name, [self.restorer.failed(row, message)])
            return told

        return self._tried.rows(item, lambda part: list(self._restored(part, done)), condemned)

    def _committed(self, shard: str) -> dict[str, Row]:
        """Rows of a shard's commits, by key, that need not be restored again."""
        rows = commits.committed(self.output, shard)
        return {key: row for key, row in rows.items() if row["status"] == "ok" or not self.retry_errors}

    def _restored(self, item: Item, done: Mapping[str, Row]) -> Iterator[Row]:
        """The item's rows once they are in the output; those in `done` are there already."""
        given = sources.rows(item.shard, item.flags, self._samples)
        read = ahead(item.checked(given), self._reader)
        passed: list[Row] = []

        def todo() -> Iterator[InputRow]:
            for row in read:
                if row.key in done:
                    passed.append(done[row.key])
                else:
                    yield row

        held: list[Row] = []
        last = time.monotonic()
        with closing(self.restorer.stream(todo())) as restored:
            for rows in restored:
                held += rows
                if time.monotonic() - last >= COMMIT_SECONDS:
                    yield from self._commit(item.shard.name, held)
                    held, last = [], time.monotonic()
        yield from self._commit(item.shard.name, held)
        yield from passed

    def _commit(self, shard: str, rows: list[Row]) -> list[dict[str, Any]]:
        """Key, status and error of rows, once they are in the output."""
        if rows:
            lease.check(self.output, self.lease_id)
            commits.commit(self.output, shard, rows)
            self.metrics.committed(rows)
            self._heartbeat.committed(sum("seconds" in row for row in rows))
        return [{name: row.get(name) for name in ("key", "status", "error")} for row in rows]
