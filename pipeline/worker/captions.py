"""The captioning actor: the pictures of a shard in, a file of captions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import islice

import numpy as np
import pyarrow as pa

from p2l_engine.priors.captioner import Captioner, load_captioner
from pipeline.cluster import board, crew, devices
from pipeline.cluster.heartbeat import Heartbeat
from pipeline.cluster.starting import started
from pipeline.config import JobConfig
from pipeline.config.caption import CaptionConfig
from pipeline.input import sources
from pipeline.input.rows import InputRow
from pipeline.messages import describe, readable
from pipeline.observe import logs
from pipeline.observe.prometheus import ActorMetrics
from pipeline.output import captions, lease
from pipeline.output.columns import Row
from pipeline.output.folder import OutputFolder
from pipeline.pictures.images import ImageError
from pipeline.stores import retries, storage_options
from pipeline.worker.items import Item, Work
from pipeline.worker.measure import prepare, shown
from pipeline.worker.options import ActorOptions
from pipeline.worker.receipts import Worker
from pipeline.worker.tries import Tried

SHARDS_HELD = 2  # whose captions are in memory: an actor's next item is mostly of the same shard
TOGETHER = 16  # pictures that the model sees at a time


class CaptionShards:
    """What Ray Data runs. A shard's captions appear whole, so a kill loses the shards in work."""

    def __init__(self, config: JobConfig, options: ActorOptions, lease_id: str) -> None:
        storage_options.configure(config.storage)
        logs.of_worker(config.fingerprint)
        options.limit_threads()
        assert config.caption
        self.config, self.lease_id = config, lease_id
        self.output = OutputFolder(config.output)
        self.metrics, self.worker = ActorMetrics(config.fingerprint, options.device), Worker()
        self._tried = Tried(self.output, lease_id, self.worker.node)
        self._heartbeat = Heartbeat(self.metrics.stepped)
        self._heartbeat.watch(partial(board.put, lease_id, crew.TOPIC, self.worker.name))
        load_it = partial(load, config.caption, options.device)
        self.captioner = started(load_it, options.device, lease_id, self.worker.node)
        self._heartbeat.ready = True

    @retries.patient()
    def __call__(self, block: pa.Table) -> pa.Table:
        work = Work.of(block.to_pylist()[0])
        lease.check(self.output, self.lease_id)  # before work that could not be written
        found = self._tried.rows(work.to_caption(), self._captioned, self._condemned)
        lease.check(self.output, self.lease_id)
        captions.write(self.output, work.shard.name, found, self.config.fingerprint)
        return pa.table({"shard": [work.shard.name], "rows": [len(found)]})

    def _captioned(self, item: Item) -> list[Row]:
        """Key, caption and error of each row, a few read and captioned at a time."""
        rows, found = sources.rows(item.shard, item.flags), list[Row]()
        while batch := list(islice(rows, TOGETHER)):
            with self._heartbeat.restoring(0):  # of whose rows nothing is in a receipt, or will be
                found += captioned(batch, self.config, self.captioner)
                self._heartbeat.step(len(found), len(item.wanted))
        return found

    def _condemned(self, item: Item, message: str) -> Row:
        (row,) = sources.bare_rows(item.shard, item.flags)
        return {"key": row.key, "error": readable(message)}


def stored(config: JobConfig) -> Callable[[InputRow], str] | None:
    """The caption of a row, made before or by an earlier run; None for a job without captions.

    It raises LookupError where a row has none.
    """
    if config.caption is None:
        return None
    folder = OutputFolder(config.caption.run or config.output)
    of_shard = lru_cache(SHARDS_HELD)(partial(captions.by_key, folder))

    def caption(row: InputRow) -> str:
        found = of_shard(row.source_shard).get(row.key)
        if found is None or found["caption"] is None:
            why = found["error"] if found else f"{folder} has none of this key"
            raise LookupError(f"no caption: {why}")
        return str(found["caption"])

    return caption


def load(config: CaptionConfig, device: str) -> Captioner:
    """The configured captioner. Raises what `load_captioner` raises, after retries of a store's errors."""
    assert config.model
    load_it = partial(load_captioner, config.model, revision=config.revision, device=device)
    return retries.retried(load_it, f"model {config.model}") if "://" in config.model else load_it()


def captioned(rows: Sequence[InputRow], config: JobConfig, captioner: Captioner) -> list[Row]:
    """key, caption and error of each row; an error where its picture cannot be had or captioned."""
    pictures = [_picture(row, config) for row in rows]
    texts = iter(_texts([one for one in pictures if not isinstance(one, str)], captioner))
    made = [{"error": readable(one)} if isinstance(one, str) else next(texts) for one in pictures]
    return [{"key": row.key} | one for row, one in zip(rows, made, strict=True)]


def _picture(row: InputRow, config: JobConfig) -> np.ndarray | str:
    """What the captioner is shown, uint8 (H, W, 3), or why there is nothing to show."""
    assert config.caption
    try:
        image = prepare(row, config)
        return image.pixels if config.caption.source == "original" else shown(image, config)
    except ImageError as error:
        return str(error)
    except Exception as error:  # a row never ends the job
        return f"cannot prepare the row: {describe(error)}"


def _texts(pictures: Sequence[np.ndarray], captioner: Captioner) -> list[Row]:
    """A caption or an error each; of pictures that fail together, only what fails alone has none."""
    if not pictures:
        return []
    try:
        return [{"caption": text} for text in captioner(pictures)]
    except Exception as error:
        if devices.is_fault(error):
            raise
        if len(pictures) == 1:
            return [{"error": readable(f"cannot be captioned: {describe(error)}")}]
    middle = len(pictures) // 2
    return _texts(pictures[:middle], captioner) + _texts(pictures[middle:], captioner)
