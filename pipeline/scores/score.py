"""Scoring, start to end: shards that lack scores go to actors; what all come to goes into scores.json."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from p2l_engine.metrics import NETWORKS
from pipeline.cluster.ray_start import TASK_CPUS
from pipeline.cluster.session import ray_session
from pipeline.config import ConfigError
from pipeline.input import sources
from pipeline.output import scores
from pipeline.output.rows import READERS
from pipeline.run import failures, pool
from pipeline.scores import sums
from pipeline.scores.actor import TOGETHER, ScoreShards, Task
from pipeline.scores.request import Request
from pipeline.stores import storage

RETRIES = 10  # of a shard whose actor was lost
SECONDS_BETWEEN_LINES = 30.0


class ScoringError(RuntimeError):
    """Scoring that could not complete; what is written stays, and the same command goes on from there."""


def score(asked: Request, tell: Callable[[str], None]) -> dict[str, Any]:
    """Scores every shard that is whole and lacks scores; returns what scores.json holds then.

    tell: takes a line on how far it is. Interrupted at any moment, the same call goes on with the shards that
    are left. Raises ConfigError for files of weights that are another network's, ScoringError where it could
    not complete.
    """
    shards = asked.output.restored()
    try:
        todo = tasks(asked, shards)
        if todo:
            _load_once(asked)
            _run(asked, todo, tell)
        return sums.write(asked, shards)
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        raise ScoringError(failures.explain(error, asked.output.url)) from error


def _run(asked: Request, todo: Sequence[Task], tell: Callable[[str], None]) -> None:
    with ray_session(), closing(_receipts(asked, todo)) as receipts:
        last = time.monotonic()
        for done, _ in enumerate(receipts, 1):
            if done == len(todo) or time.monotonic() - last > SECONDS_BETWEEN_LINES:
                tell(f"scored {done} of {len(todo)} shards")
                last = time.monotonic()


def tasks(asked: Request, shards: Sequence[str]) -> list[Task]:
    """What lacks scores, of whole shards of the output and of the reference set."""
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(lambda shard: _task(asked, shard), shards))
        if asked.against:
            found += readers.map(lambda shard: _reference_task(asked, shard), asked.against.shards)
    return [task for task in found if task.networks]


def _task(asked: Request, shard: str) -> Task:
    file = asked.output.restored_file(shard)
    try:
        rows = asked.output.read(file, ("key", "status"))
    except pa.ArrowException as error:
        raise OSError(f"{asked.output.at(file)}: cannot be read: {error}") from error
    keys = rows.filter(pc.equal(rows["status"], "ok"))["key"].to_pylist()
    source = asked.sources.get(shard)
    return _lacking(asked, Task(shard, {}, source), keys, {"fingerprint": asked.fingerprint})


def _reference_task(asked: Request, shard: sources.Shard) -> Task:
    assert asked.against
    task = Task(shard.name, {}, shard, asked.against.digest)
    files = [storage.join(shard.url, paths[0]) for paths in shard.files] or [shard.url]
    versions = " ".join(map(storage.version, files))
    marks = {"pictures": hashlib.sha256(versions.encode()).hexdigest()[:16]}
    return _lacking(asked, task, [str(key) for key in sources.keys(shard)], marks)


def _lacking(asked: Request, task: Task, keys: Sequence[str], marks: dict[str, str]) -> Task:
    """The task with those networks whose file is not there, or is of other images or weights.

    marks: what tells the images from others of the same keys.
    """
    networks = {}
    for of in asked.weights:
        if task.reference_set and not NETWORKS[of.network].frechet:
            continue
        file = scores.scores_file(of.network, task.shard, task.reference_set)
        its_marks = marks | {"weights": of.digest}
        if not scores.holds(asked.output, file, keys, its_marks):
            networks[of.network] = its_marks
    return replace(task, networks=networks)


def _load_once(asked: Request) -> None:
    """So that a file that cannot be used is told of here. Raises ConfigError."""
    problems = []
    for of in asked.weights:
        try:
            NETWORKS[of.network].load(of.here())
        except (ModuleNotFoundError, ValueError) as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)


def _receipts(asked: Request, todo: Sequence[Task]) -> Generator[pa.Table]:
    """One of each shard as soon as its files are there."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    device, there = ("cuda", gpus) if gpus else ("cpu", int(ray.cluster_resources().get("CPU", 0) / 2))
    actors = max(1, min(there, len(todo)))
    options = pool.options_of(device, TOGETHER, actors)
    dataset = ray.data.from_items(
        [task.packed() for task in todo], override_num_blocks=len(todo)
    ).map_batches(
        ScoreShards,
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(asked.output, asked.config, asked.weights, options),
        max_restarts=-1,
        max_task_retries=RETRIES,
        **({"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": TASK_CPUS}),
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
