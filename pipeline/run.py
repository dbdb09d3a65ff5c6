"""A run, start to end: plan the shards, restore what is not done, make whole shards, sum up."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset

from pipeline import resume, sources, storage, summary
from pipeline.cluster import READER_CPUS, ACTOR_CPUS, actor_options, commit_every, pool, ray_session
from pipeline.config import ConfigError, JobConfig, changed_settings
from pipeline.progress import Progress
from pipeline.restore import ActorOptions, RestoreAndCommit
from pipeline.rows import SourceError
from pipeline.scan import Work, scan
from pipeline.sources import Shard
from pipeline.summary import RunSummary

VERSIONS_OF = ("p2l", "ray", "torch", "diffusers", "transformers", "pyarrow", "pillow")


class RunError(RuntimeError):
    """A run that could not complete; what is committed stays, and the same command goes on from there."""


def run(config: JobConfig, *, shards: str | None = None, retry_errors: bool = False) -> RunSummary:
    """Restores every row of the input that has no row in the output, and writes the summary.

    shards: only those whose name matches this pattern. retry_errors: restores rows with status `error` again.
    A finished run returns within seconds, without starting Ray.

    Raises ConfigError when the output was begun with other settings; RunError when the input or its keys are wrong or
    the run could not complete.
    """
    start = time.monotonic()
    try:
        planned = sources.list_shards(config.input)
    except (SourceError, OSError) as error:
        raise RunError(str(error)) from error
    names = [shard.name for shard in planned]
    chosen = fnmatch.filter(names, shards) if shards else names
    if not chosen:
        raise RunError(f"--shards {shards}: matches none of {', '.join(names[:10])}")
    output = config.output
    _refuse_other_settings(config)
    open_shards = _open_shards(output, chosen, retry_errors)
    if not open_shards and storage.exists(summary.summary_url(output)):
        return summary.count(output, chosen, time.monotonic() - start)

    storage.remove(summary.summary_url(output))
    resume.remove_leftovers(output)
    _write_run(config)
    restored = _restore(config, planned, open_shards, retry_errors) if open_shards else 0
    summary.write(output, config.fingerprint, names, restored, time.monotonic() - start)
    return summary.count(output, chosen, time.monotonic() - start)


def _restore(config: JobConfig, planned: Sequence[Shard], open_shards: set[str], retry_errors: bool) -> int:
    """Restores the open shards, makes each whole as soon as its last row is there; how many rows were restored."""
    with ray_session():
        try:
            work = scan(planned, config.output, retry_errors=retry_errors, open_shards=open_shards)
            whole = _Compaction(config.output, work)
            total, left = sum(item.rows for item in work), sum(item.left for item in work)
            with Progress(total, total - left) as progress:
                for receipts in _receipts(config, work, retry_errors) if left else ():
                    _report(progress, receipts, actor_options(config))
                    whole.count(receipts)
                whole.finish()
            return left
        except (ray.exceptions.RayError, SourceError, OSError, RuntimeError) as error:
            raise RunError(_explain(error)) from error


def graph(config: JobConfig, work: Sequence[Work], options: ActorOptions, retry_errors: bool) -> Dataset:
    """The whole data flow. Shards become rows, rows blocks of one commit each, blocks receipts."""
    block = commit_every(config, options.device)
    return (
        ray.data.from_items([_item(item) for item in work if item.left], override_num_blocks=len(work))
        .map_batches(_read, batch_size=1, batch_format="pyarrow", num_cpus=READER_CPUS)
        .repartition(target_num_rows_per_block=block)
        .map_batches(
            RestoreAndCommit,
            batch_size=block,
            batch_format="pyarrow",
            compute=pool(config, options.device),
            num_cpus=0 if options.device == "cuda" else ACTOR_CPUS,
            num_gpus=1 if options.device == "cuda" else 0,
            fn_constructor_kwargs={"config": config, "options": options, "retry_errors": retry_errors},
        )
    )


def _receipts(config: JobConfig, work: Sequence[Work], retry_errors: bool) -> Iterator[pa.Table]:
    dataset = graph(config, work, actor_options(config), retry_errors)
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def _item(work: Work) -> dict[str, Any]:
    return asdict(work.shard) | {"rows": work.rows, "wanted": work.wanted, "left": work.left}


def _read(batch: pa.Table) -> Iterator[pa.Table]:
    """The wanted rows of one shard, a few at a time. What is wanted was fixed before, so a repeat reads the same."""
    item = batch.to_pylist()[0]
    shard = Shard(item["name"], item["kind"], item["url"], tuple(item["files"]))
    work = Work(shard, item["rows"], item["wanted"], item["left"])
    yield from sources.blocks(sources.rows(shard, work.flags()), size=8)


class _Compaction:
    """Counts down each shard's rows and makes it one file, in a Ray task, when none is left."""

    def __init__(self, output: str, work: Sequence[Work]) -> None:
        self._output = output
        self._shards = {item.shard.name: item.shard for item in work}
        self._left = {item.shard.name: item.left for item in work}
        self._tasks = [self._start(name) for name, left in self._left.items() if not left]

    def count(self, receipts: pa.Table) -> None:
        for counted in receipts.column("source_shard").value_counts().to_pylist():
            name = counted["values"]
            self._left[name] -= counted["counts"]
            if not self._left[name]:
                self._tasks.append(self._start(name))

    def finish(self) -> None:
        """Waits for all; raises what one of them raised."""
        ray.get(self._tasks)

    def _start(self, name: str) -> ray.ObjectRef:
        return _compact.options(num_cpus=READER_CPUS).remote(self._output, self._shards[name])


@ray.remote
def _compact(output: str, shard: Shard) -> None:
    resume.compact(output, shard.name, [str(key) for key in sources.keys(shard)])


def _report(progress: Progress, receipts: pa.Table, options: ActorOptions) -> None:
    errors = receipts.column("status").to_pylist().count("error")
    progress.advance(receipts.num_rows, errors)


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
    if not storage.exists(url):
        if resume.restored_shards(config.output) or resume.unfinished_shards(config.output):
            raise ConfigError(
                [f"output: {config.output} holds restored images but no run.json; choose another folder"]
            )
        return
    changes = changed_settings(json.loads(storage.read_text(url))["settings"], config)
    if changes:
        raise ConfigError(
            [
                f"output: {config.output} was begun with other settings (stored -> now); choose another folder",
                *changes,
            ]
        )


def _write_run(config: JobConfig) -> None:
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


def _explain(error: BaseException) -> str:
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    text = str(cause).strip() or type(cause).__name__
    return text
