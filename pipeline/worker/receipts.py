"""What an actor tells the driver of its rows, in place of the rows themselves."""

from __future__ import annotations

import os
import time
from typing import Any

import pyarrow as pa
import ray

from pipeline.stores import retries

RECEIPT_SCHEMA = pa.schema(
    [
        ("source_shard", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("micro_batch", pa.int32()),  # images the actor now takes at once
        ("checkpointing", pa.bool_()),  # whether some of its images take too much memory without it
        ("actor", pa.string()),  # Ray's name of its process
        ("node", pa.string()),
        ("actor_seconds", pa.float64()),  # since it started
        ("retries", retries.NAMES),  # what was tried again since the receipt before
    ]
)


class Worker:
    """An actor's process, as its receipts name it, and how long it is there."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        context = ray.get_runtime_context() if ray.is_initialized() else None
        self.node = context.get_node_id() if context else "this machine"
        self.name = context.get_worker_id() if context else f"process {os.getpid()}"
        self._names = {"actor": self.name, "node": self.node}

    def columns(self) -> dict[str, Any]:
        """Of a receipt."""
        return self._names | {"actor_seconds": time.monotonic() - self._start}
