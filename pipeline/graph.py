"""The data flow of a run, by Ray Data: shards become rows, rows blocks of one commit, blocks receipts."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import ray
from ray.data import Dataset

from pipeline import cluster, work
from pipeline.config import JobConfig
from pipeline.restore import ActorOptions, RestoreAndCommit
from pipeline.work import Work

# By one Dataset: until it ends, the driver keeps its statistics of each; see docs/scale.md.
COMMITS_AT_ONCE = 10_000


def receipts(
    config: JobConfig, part: Sequence[Work], options: ActorOptions, retry_errors: bool, lease_id: str
) -> Generator[pa.Table]:
    """Restores what is left of some shards; the receipts of each commit as soon as it is made."""
    dataset = graph(config, part, options, retry_errors, lease_id)
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    del dataset
    gc.collect()  # a Dataset and its statistics refer to each other


def graph(
    config: JobConfig, part: Sequence[Work], options: ActorOptions, retry_errors: bool, lease_id: str
) -> Dataset:
    """One Dataset over shards that have something left."""
    items = [item.item() for item in part]
    block = cluster.commit_every(config, options.device)
    return (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            partial(work.read, stores=config.storage),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=work.TASK_CPUS,
        )
        .repartition(target_num_rows_per_block=block)
        .map_batches(
            RestoreAndCommit,
            batch_size=block,
            batch_format="pyarrow",
            compute=cluster.pool(config, options.device),
            fn_constructor_args=(config, options, retry_errors, lease_id),
            **cluster.actor_resources(options.device),
        )
    )


def parts(todo: Iterable[Work], commit: int) -> Iterator[list[Work]]:
    """Shards with something left, in order, in parts of `COMMITS_AT_ONCE` commits of `commit` rows."""
    part, held = list[Work](), 0
    for item in todo:
        if item.left:
            part.append(item)
            held += item.left
        if held >= COMMITS_AT_ONCE * commit:
            yield part
            part, held = [], 0
    if part:
        yield part
