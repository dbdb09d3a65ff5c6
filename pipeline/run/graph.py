"""The data flow of a run, by Ray Data: items of work go to actors, which read, restore and commit their rows.

No image passes through Ray's object store, so a lost machine takes none with it that others wait for.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Generator, Iterator, Sequence
from functools import partial

import pyarrow as pa
import ray

from pipeline.config import JobConfig
from pipeline.run import pool
from pipeline.worker.actor import RestoreAndCommit
from pipeline.worker.items import Item, Work
from pipeline.worker.options import ActorOptions

# By one Dataset: until it ends, the driver keeps its statistics of each; see docs/scale.md.
ITEMS_AT_ONCE = 10_000


def receipts(
    config: JobConfig, part: Sequence[Item], options: ActorOptions, retry_errors: bool, lease_id: str
) -> Generator[pa.Table]:
    """Restores some items; the receipts of each as soon as its rows are in the output."""
    pool.grow_when_busy()
    dataset = ray.data.from_items(
        [item.packed() for item in part], override_num_blocks=len(part)
    ).map_batches(
        RestoreAndCommit,
        batch_size=1,
        batch_format="pyarrow",
        compute=pool.pool(config, options.device),
        fn_constructor_args=(config, options, retry_errors, lease_id),
        **pool.actor_resources(options.device),
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    del dataset
    gc.collect()  # a Dataset and its statistics refer to each other


def parts(todo: Sequence[Work], most: int, actors: int) -> Iterator[list[Item]]:
    """What is left of the shards, in order, in items of at most `most` rows and parts of `ITEMS_AT_ONCE`."""
    part = list[Item]()
    for item in items(todo, most, actors):
        part.append(item)
        if len(part) == ITEMS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def items(todo: Sequence[Work], most: int, actors: int) -> Iterator[Item]:
    """What is left, in order, in items of at most `most` rows.

    Once fewer rows are left than that for each of the actors, they are shared out, so that no image at the
    end waits behind others while actors have nothing to do.
    """
    left = sum(work.left for work in todo)
    for work in todo:
        yield from work.items(partial(_share, left, most, actors))
        left -= work.left


def _share(left: int, most: int, actors: int, taken: int) -> int:
    return min(most, math.ceil((left - taken) / actors))
