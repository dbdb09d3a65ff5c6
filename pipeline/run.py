"""A run, start to end: plan the shards, restore what is not done, make whole shards, sum up."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import platform
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import ray
from ray.data import Dataset

from pipeline import cluster, resume, retries, sources, storage, storage_options, summary, work
from pipeline.config import ConfigError, JobConfig, changed_settings
from pipeline.progress import Progress
from pipeline.restore import ActorOptions, RestoreAndCommit
from pipeline.rows import SourceError
from pipeline.scan import scan
from pipeline.sources import Shard
from pipeline.summary import RunSummary
from pipeline.work import Compaction, Work

FILES_AT_ONCE = 16  # an object store is slow to answer one request, and quick with many
RAY_ADVICE = "\nFailed to apply UDF transform"  # lines that Ray Data adds to an error, about its own settings
VERSIONS_OF = ("p2l", "ray", "torch", "diffusers", "transformers", "pyarrow", "pillow")


class RunError(RuntimeError):
    """A run that could not complete; what is committed stays, and the same command goes on from there."""


def run(config: JobConfig, *, shards: str | None = None, retry_errors: bool = False) -> RunSummary:
    """Restores every row of the input that has no row in the output, and writes the summary.

    shards: only those whose name matches this pattern. retry_errors: restores rows with status `error` again.
    A finished run returns within seconds, without starting Ray.

    Raises ConfigError when the output was begun with other settings; RunError when the input or its keys are
    wrong, or the run could not complete.
    """
    start = time.monotonic()
    storage_options.configure(config.storage)
    retried = retries.Since()
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
        storage.remove(summary.summary_url(config.output))
        resume.remove_leftovers(config.output)
        _write_run_json(config)
        restored, elsewhere = _restore(config, planned, open_shards, retry_errors) if open_shards else (0, [])
        seconds, again = time.monotonic() - start, Counter([*elsewhere, *retried.names()])
        summary.write(config.output, config.fingerprint, names, restored, seconds, again)
    return summary.count(config.output, chosen, time.monotonic() - start)


def graph(config: JobConfig, todo: Sequence[Work], options: ActorOptions, retry_errors: bool) -> Dataset:
    """The whole data flow: shards become rows, rows blocks of one commit each, blocks receipts."""
    items = [item.item() for item in todo if item.left]
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
            fn_constructor_args=(config, options, retry_errors),
            **cluster.actor_resources(options.device),
        )
    )


def _restore(
    config: JobConfig, planned: Sequence[Shard], open_shards: set[str], retry_errors: bool
) -> tuple[int, list[str]]:
    """Restores the open shards, each made whole as soon as its last row is there.

    Returns how many rows that were, and the error of each retry in other processes.
    """
    try:
        with cluster.ray_session():
            todo, again = scan(
                planned,
                config.output,
                retry_errors=retry_errors,
                open_shards=open_shards,
                stores=config.storage,
            )
            total, left = sum(item.rows for item in todo), sum(item.left for item in todo)
            whole = Compaction(config.output, todo, config.storage)
            options = cluster.actor_options(config)
            with Progress(total, total - left, options.batch_size, retries=again) as progress:
                for receipts in _receipts(graph(config, todo, options, retry_errors)) if left else ():
                    progress.committed(receipts)
                    whole.count(receipts)
                again = [*progress.retries.elements(), *whole.finish()]
            return left, again
    except (ray.exceptions.RayError, SourceError, OSError, RuntimeError) as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        message = str(cause).split(RAY_ADVICE)[0].strip()
        raise RunError(message or type(cause).__name__) from error


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
