"""The stage before restoring: shards that lack captions go to actors of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from p2l_engine.priors.captioner import check_captioner
from pipeline.cluster import board, starting
from pipeline.config import ConfigError, JobConfig
from pipeline.config.caption import PICTURES
from pipeline.output.folder import RUN, OutputFolder
from pipeline.run import pool
from pipeline.stores import retries, storage_options
from pipeline.worker.captions import CaptionShards
from pipeline.worker.items import Work
from pipeline.worker.options import ActorOptions

SECONDS_BETWEEN_LINES = 30.0


def check(config: JobConfig) -> None:
    """Raises ConfigError where the job names no captioner, or a run without captions; reads no weights."""
    if config.caption is None:
        return
    storage_options.configure(config.storage)
    try:
        problems = _run_problems(config.caption.run) if config.caption.run else _model_problems(config)
    except OSError as error:
        if retries.name(error):  # a store out of reach is no mistake of the job's
            raise
        problems = [f"{'from' if config.caption.run else 'model'}: {error}"]
    if problems:
        raise ConfigError([f"caption.{problem}" for problem in problems])


def _model_problems(config: JobConfig) -> list[str]:
    assert config.caption and config.caption.model
    check_it = partial(check_captioner, config.caption.model, config.caption.revision)
    elsewhere = "://" in config.caption.model
    return retries.retried(check_it, f"model {config.caption.model}") if elsewhere else check_it()


def _run_problems(url: str) -> list[str]:
    folder = OutputFolder(url)
    folder.check()
    if folder.json(RUN).get("config", {}).get("caption"):
        return []
    return [
        f"from: got {url}, a run without captions; allowed: {', '.join(PICTURES)}, or a run that had some"
    ]


def fingerprint(config: JobConfig) -> str | None:
    """That of the settings that captions are made with; None where none are made."""
    return config.fingerprint if config.caption and not config.caption.run else None


def caption(
    config: JobConfig,
    todo: Sequence[Work],
    options: ActorOptions,
    lease_id: str,
    *,
    moved: Callable[[], None],
    tell: Callable[[str], None],
) -> None:
    """Captions the rows of shards, in order; each shard's are in the output when it is told of.

    options: of the restoring actors, which come after these on the same devices. moved: called for each
    shard. tell: takes a line on how far it is.
    """
    if not todo:
        return
    last = time.monotonic()
    with closing(_captioned(config, todo, options, lease_id)) as made:
        for done, _ in enumerate(made, 1):
            moved()
            if done == len(todo) or time.monotonic() - last > SECONDS_BETWEEN_LINES:
                tell(f"captioned {done} of {len(todo)} shards")
                last = time.monotonic()
    board.remove(lease_id, starting.TOPIC)  # the restoring actors' starts are another matter


def _captioned(
    config: JobConfig, todo: Sequence[Work], options: ActorOptions, lease_id: str
) -> Generator[pa.Table]:
    """A table for each shard as soon as its captions are in the output."""
    actors = max(1, min(pool.wanted(config, options.device), len(todo)))
    dataset = ray.data.from_items([work.item() for work in todo], override_num_blocks=len(todo)).map_batches(
        CaptionShards,
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=1, initial_size=actors, max_size=actors, max_tasks_in_flight_per_actor=2
        ),
        fn_constructor_args=(config, options, lease_id),
        **pool.actor_resources(options.device),
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
