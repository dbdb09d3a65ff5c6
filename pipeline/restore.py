"""The actor: one model, rows in, committed rows out; what goes wrong with a row becomes that row's error."""

from __future__ import annotations

import gc
import json
import logging
import time
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from p2l_engine import methods, metrics, restore
from p2l_engine.seeding import image_seed
from pipeline import lease, limits, logs, models, retries, sink, storage_options
from pipeline.config import JobConfig
from pipeline.degrade import Prepared, measurements, prepare
from pipeline.images import ImageError, encode_png
from pipeline.messages import describe, readable
from pipeline.rows import InputRow
from pipeline.sink import Row
from pipeline.telemetry import ActorMetrics, Worker

log = logging.getLogger(__name__)

RECEIPT_SCHEMA = pa.schema(
    [
        ("source_shard", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("micro_batch", pa.int32()),  # images the actor now takes at once
        ("actor", pa.string()),  # Ray's name of its process
        ("node", pa.string()),
        ("actor_seconds", pa.float64()),  # since it started
        ("retries", retries.NAMES),  # what was tried again since the receipt before
    ]
)


@dataclass(frozen=True)
class ActorOptions:
    """device: cpu or cuda. batch_size: images to restore together. threads: of torch on the CPU."""

    device: str
    batch_size: int
    threads: int


class Restorer:
    """Restores rows with one model; after memory ran out, with half as many at a time."""

    def __init__(self, config: JobConfig, options: ActorOptions) -> None:
        torch.set_num_threads(options.threads)
        self.config = config
        self.micro_batch = options.batch_size
        self.device = options.device
        self.method = methods.from_block(config.method, config.operator["name"])
        self.model = None
        if self.method.name != "adjoint":
            self.model = models.load(config.model.model_copy(update={"device": self.device}))
        self._constants = {
            "operator": json.dumps(config.operator),
            "method": json.dumps(config.method),
            "model": config.model.id,
            "fingerprint": config.fingerprint,
        }

    def __call__(self, rows: Sequence[InputRow]) -> list[Row]:
        """One output row for each input row, in their order; prepared pixels are held up to a limit."""
        done: dict[str, Row] = {}
        groups: dict[Hashable, list[Prepared]] = defaultdict(list)
        held = 0
        for row in rows:
            try:
                image = prepare(row, self.config)
                groups[image.group].append(image)
                held += image.pixels.size // 3
            except ImageError as error:
                done[row.key] = self._error(row, str(error))
            except Exception as error:  # a row never ends the job
                done[row.key] = self._error(row, f"cannot prepare the row: {describe(error)}")
            if held >= limits.RESTORED_PIXELS:
                done |= self._restore_groups(groups)
                held = 0
        done |= self._restore_groups(groups)
        return [done[row.key] for row in rows]

    def _restore_groups(self, groups: dict[Hashable, list[Prepared]]) -> dict[str, Row]:
        """The rows of the groups by key; the groups are emptied."""
        done: dict[str, Row] = {}
        while groups:
            _, images = groups.popitem()
            while images:
                now, images = images[: self.micro_batch], images[self.micro_batch :]
                done |= {row["key"]: row for row in self._restore(now)}
        return done

    def _restore(self, images: Sequence[Prepared]) -> list[Row]:
        """Restores a micro-batch; when that fails, its halves, so that only what fails alone is an error."""
        try:
            return self._solve(images)
        except Exception as error:
            cause = "out of memory" if _is_out_of_memory(error) else "cannot restore the image"
            message = f"{cause}: {describe(error)}"
        # Outside of the handler: the traceback there holds the failed batch's tensors.
        if message.startswith("out of memory"):
            self.micro_batch = max(1, len(images) // 2)
            log.warning("memory ran out", extra={"images": len(images), "next": self.micro_batch})
            gc.collect()
            torch.cuda.empty_cache()
        if len(images) == 1:
            return [self._error(images[0].row, message)]
        middle = len(images) // 2
        return self._restore(images[:middle]) + self._restore(images[middle:])

    def _solve(self, images: Sequence[Prepared]) -> list[Row]:
        start = time.perf_counter()
        operator, y = measurements(images, self.config)
        restored = restore(
            self.model,
            operator.to(self.device),
            y.to(self.device),
            method=self.method,
            prompts=[
                self.config.prompt if image.row.prompt is None else image.row.prompt for image in images
            ],
            seeds=[image.seed for image in images],
        )
        seconds = (time.perf_counter() - start) / len(images)
        shared = {"seconds": seconds, "nfe": restored.nfe}
        rows = []
        for index, image in enumerate(images):
            if (error := restored.errors[index]) is not None:
                rows.append(self._error(image.row, f"restoration diverged: {error}") | shared)
                continue
            row = (
                self._row(image.row, "ok") | shared | self._pictures(image, restored.images[index], y[index])
            )
            row["residual"] = float(restored.residual[index])
            if "prompt_embedding" in self.config.keep and restored.prompt_embeddings is not None:
                row["prompt_embedding"] = restored.prompt_embeddings[index].float().cpu().numpy().tolist()
            rows.append(row)
        return rows

    def _pictures(self, image: Prepared, restored: torch.Tensor, y: torch.Tensor) -> Row:
        """The image columns, their size, and what a reference allows to measure."""
        pixels = metrics.to_uint8(restored)
        height, width = pixels.shape[:2]
        found: Row = {"image": _picture(image.row.key, pixels), "width": width, "height": height}
        if "measurement" in self.config.keep and y.ndim == 3 and y.shape[0] == 3:
            found["measurement"] = _picture(image.row.key, metrics.to_uint8(y))
        if self.config.mode == "measure":
            found["psnr"] = metrics.psnr(image.pixels, pixels)
            found["ssim"] = metrics.ssim(image.pixels, pixels)
            if "reference" in self.config.keep:
                found["reference"] = _picture(image.row.key, image.pixels)
        return found

    def _row(self, row: InputRow, status: str) -> Row:
        names = {"key": row.key, "source_shard": row.source_shard, "status": status}
        return names | {"seed": image_seed(self.config.seed, row.key)} | self._constants

    def _error(self, row: InputRow, message: str) -> Row:
        return self._row(row, "error") | {"error": readable(message)}


class RestoreAndCommit:
    """What Ray Data runs: restores a block, commits it, and hands on receipts instead of images.

    The commit is made here, before the next block is taken, so that a kill loses one block of each actor and
    images never travel through the object store. A block that stands in the output already, from an actor
    that was lost before its receipt arrived, is not restored again.
    """

    def __init__(self, config: JobConfig, options: ActorOptions, retry_errors: bool, lease_id: str) -> None:
        storage_options.configure(config.storage)
        logs.of_worker(config.fingerprint)
        self.worker = Worker()
        self.metrics = ActorMetrics(config.fingerprint, options.device)
        self.lease_id = lease_id
        self.output = config.output
        self.retry_errors = retry_errors
        self.retried = retries.Since()
        self.restorer = Restorer(config, options)

    def __call__(self, block: pa.Table) -> pa.Table:
        lease.check(self.output, self.lease_id)  # before work that could not be committed
        by_shard: dict[str, list[InputRow]] = defaultdict(list)
        names: list[str] = []
        for cells in block.to_pylist():
            names += cells.pop("retries", ())
            by_shard[cells["source_shard"]].append(InputRow(**cells))
        receipts = [receipt for shard, rows in by_shard.items() for receipt in self._commit(shard, rows)]
        receipts[0]["retries"] = names + self.retried.names()
        return pa.Table.from_pylist(receipts, schema=RECEIPT_SCHEMA)

    def _commit(self, shard: str, rows: Sequence[InputRow]) -> list[dict[str, Any]]:
        found = sink.committed(self.output, shard, [row.key for row in rows])
        if found is None or (self.retry_errors and any(row["status"] == "error" for row in found)):
            found = self.restorer(rows)
            lease.check(self.output, self.lease_id)
            sink.commit(self.output, shard, found)
            self.metrics.committed(found)
        size = self.restorer.micro_batch
        shared = {"source_shard": shard, "micro_batch": size, "retries": []} | self.worker.columns()
        return [row | shared for row in found]


def _picture(key: str, pixels: Any) -> dict[str, Any]:
    return {"bytes": encode_png(pixels), "path": f"{key}.png"}


def _is_out_of_memory(error: BaseException) -> bool:
    """torch tells of exhausted CPU memory only in the text of a plain RuntimeError."""
    signs = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    )
