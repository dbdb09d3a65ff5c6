"""A run, start to end: plan the shards, restore what is not done, make whole shards, sum up."""

from __future__ import annotations

import fnmatch
import gc
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import ray
from ray.data import Dataset

from pipeline import cluster, failures, lease, resume, sources, storage, summary, work
from pipeline.config import ConfigError, JobConfig, changed_settings
from pipeline.observe import observing
from pipeline.progress import Progress
from pipeline.restore import ActorOptions, RestoreAndCommit
from pipeline.rows import SourceError
from pipeline.scan import scan
from pipeline.sources import Shard
from pipeline.starts import Start
from pipeline.stop import Stop
from pipeline.summary import RunSummary
from pipeline.watch import Watch
from pipeline.work import Compaction, Work

COMMITS_AT_ONCE = (
    10_000  # by one Dataset: until it ends, the driver keeps some 13 KB of each; see docs/scale.md
)
FILES_AT_ONCE = 16  # an object store is slow to answer one request, and quick with many
VERSIONS_OF = ("p2l", "ray", "torch", "diffusers", "transformers", "pyarrow", "pillow")


class RunError(RuntimeError):
    """A run that could not complete; what is committed stays, and the same command goes on from there."""


def run(
    config: JobConfig, *, shards: str | None = None, retry_errors: bool = False, take_over: bool = False
) -> RunSummary:
    """Restores every row of the input that has no row in the output, and writes the summary.

    shards: only those whose name matches this pattern. retry_errors: restores rows with status `error` again.
    take_over: ends the lease of another driver on the output. A finished run returns within seconds, without
    starting Ray.

    Raises ConfigError when the output was begun with other settings; RunError when the input or its keys are
    wrong, another driver works on the output, or the run could not complete.
    """
    start = time.monotonic()
    cluster.refuse_vanishing_output(config.output)
    try:
        planned = sources.list_shards(config.input)
    except (SourceError, OSError) as error:
        raise RunError(str(error)) from error
    names = [shard.name for shard in planned]
    chosen = fnmatch.filter(names, shards) if shards else names
    if not chosen:
        raise RunError(f"--shards {shards}: matches none of {', '.join(names[:10])}")
    _refuse_other_settings(config)
    _refuse_changed_folders(config.output, planned)
    open_shards = _open_shards(config.output, chosen, retry_errors)
    if open_shards or not storage.exists(summary.summary_url(config.output)):
        with _alone(config, take_over) as held, Start(config.output) as entry:
            storage.remove(summary.summary_url(config.output))
            resume.remove_leftovers(config.output)
            _write_run_json(config)
            restored = (
                _restore(config, planned, chosen, open_shards, retry_errors, held, entry)
                if open_shards
                else 0
            )
            lease.check(config.output, held.lease)
            summary.write(config, names, restored, time.monotonic() - start)
    return summary.count(config.output, chosen, time.monotonic() - start)


@dataclass(frozen=True)
class Held:
    """What a run has on its output: the lease's id, and how it is ended early."""

    lease: str
    stop: Stop


@contextmanager
def _alone(config: JobConfig, take_over: bool) -> Iterator[Held]:
    """Holds the output alone; whatever ends the run in here becomes one RunError."""
    with Stop() as stop:
        try:
            with lease.hold(config.output, take_over=take_over, lost=stop.now) as lease_id:
                yield Held(lease_id, stop)
        except KeyboardInterrupt:
            if stop.reason is None:  # a person's own
                raise
            raise RunError(stop.reason) from None
        except (ray.exceptions.RayError, SourceError, OSError, RuntimeError) as error:
            raise RunError(stop.reason or failures.explain(error, config.output)) from error


def graph(
    config: JobConfig, todo: Sequence[Work], options: ActorOptions, retry_errors: bool, lease_id: str
) -> Dataset:
    """The whole data flow: shards become rows, rows blocks of one commit each, blocks receipts."""
    items = [item.item() for item in todo]
    block = cluster.commit_every(config, options.device)
    return (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(work.read, batch_size=1, batch_format="pyarrow", num_cpus=work.TASK_CPUS)
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


def _restore(
    config: JobConfig,
    planned: Sequence[Shard],
    chosen: Sequence[str],
    open_shards: set[str],
    retry_errors: bool,
    held: Held,
    entry: Start,
) -> int:
    """Restores the open shards, each made whole as soon as its last row is there; how many rows that were."""
    with (
        cluster.ray_session(),
        Watch(config.no_progress_seconds, held.stop) as watch,
        observing(config) as observer,
    ):
        held.stop.listen()
        todo, rows = scan(planned, config.output, retry_errors=retry_errors, open_shards=open_shards)
        total, left = sum(rows[name] for name in chosen), sum(item.left for item in todo)
        lease.check(config.output, held.lease)
        observer.counted(total, total - left)
        whole = Compaction(config.output, todo, held.lease)
        options = cluster.actor_options(config)
        with Progress(entry, total, total - left, options.batch_size) as progress:
            for note in cluster.notes(config, options.device):
                progress.say(note)
            for part in _parts(todo, COMMITS_AT_ONCE * cluster.commit_every(config, options.device)):
                dataset = graph(config, part, options, retry_errors, held.lease)
                for receipts in held.stop.gracefully(_receipts(dataset)):
                    watch.progress()
                    progress.committed(receipts)
                    whole.count(receipts)
                    observer.committed(receipts)
                gc.collect()  # a Dataset and its statistics refer to each other
            whole.finish()
        return left


def _parts(todo: Sequence[Work], rows: int) -> Iterator[list[Work]]:
    """Shards with something left, in order: as many at a time as have at least `rows` rows left."""
    part, held = list[Work](), 0
    for item in todo:
        if item.left:
            part.append(item)
            held += item.left
        if held >= rows:
            yield part
            part, held = [], 0
    if part:
        yield part


def _receipts(dataset: Dataset) -> Iterable[pa.Table]:
    """Executes the graph; each commit's receipts as soon as it is made."""
    return dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _open_shards(output: str, chosen: Sequence[str], retry_errors: bool) -> set[str]:
    """Shards that are not whole, whose commits were not tidied away, or that have errors to try again."""
    whole, begun = resume.restored_shards(output), resume.unfinished_shards(output)
    return {
        name
        for name in chosen
        if name not in whole or name in begun or (retry_errors and resume.has_errors(output, name))
    }


def _refuse_other_settings(config: JobConfig) -> None:
    url = storage.join(config.output, "run.json")
    if storage.exists(url):
        changes = changed_settings(json.loads(storage.read_text(url))["settings"], config)
        if changes:
            begun = f"output: {config.output} was begun with other settings; choose another, or set back:"
            raise ConfigError([begun, *changes])
    elif resume.restored_shards(config.output) or resume.unfinished_shards(config.output):
        raise ConfigError(
            [f"output: {config.output} has restored rows but no run.json; choose another folder"]
        )


def _refuse_changed_folders(output: str, planned: Sequence[Shard]) -> None:
    """An image that comes or goes moves its neighbours to other shards, those that are whole included."""
    restored = resume.restored_shards(output)
    whole = [shard for shard in planned if shard.kind == "images" and shard.name in restored]
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        stored = pool.map(lambda shard: resume.keys_of(output, shard.name), whole)
    changed = [shard for shard, keys in zip(whole, stored, strict=True) if keys != list(shard.files)]
    if changed:
        raise RunError(
            f"input: images were added to or removed from {changed[0].url} since {len(changed)} shards, "
            f"the first {changed[0].name}, were restored; undo that, choose another output, or cut Parquet "
            "shards first"
        )


def _write_run_json(config: JobConfig) -> None:
    content = {
        "config": config.model_dump(mode="json"),
        "settings": config.settings,
        "fingerprint": config.fingerprint,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in VERSIONS_OF},
    }
    storage.write_text(storage.join(config.output, "run.json"), json.dumps(content, indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
