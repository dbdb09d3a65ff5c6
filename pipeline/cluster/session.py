"""The Ray that a run works on: joined or started, kept quiet, and told to leave retries to the pipeline."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext

from pipeline.cluster import ray_start


@contextmanager
def ray_session() -> Iterator[None]:
    """The Ray in use, else the cluster of RAY_ADDRESS, else one on this machine for as long as it takes.

    Raises RuntimeError when none can be had.
    """
    started = not ray.is_initialized()
    if started:
        ray_start.start()
    _quieten()
    _set_limits()
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def log_folder() -> Path:
    """Where Ray keeps the logs of this machine in this session."""
    context: Any = ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    return Path(context.address_info["session_dir"], "logs")


def _quieten() -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    warnings.filterwarnings("ignore", module="ray")
    # Until 2.64 Ray takes a bound on retries beside its named settings, and warns that it will not.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Whatever it is asked, Ray prints what becomes of lost tasks and nodes, with tracebacks; a run that
    # ends of it says so itself.
    ray._private.worker.print_to_stdstream = lambda *lines, **how: None


def _set_limits() -> None:
    """How often what fails is tried again. Ray Data reads and writes no files here, so it retries no I/O."""
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = -1  # see `pipeline.run.watchdog`
    # What an actor's constructor raises is the job's own fault; what may pass never gets out of it, see
    # `pipeline.cluster.starting`.
    context.actor_init_retry_on_errors = False
    context.max_consecutive_actor_init_deaths = 0
    context.max_errored_blocks = 0  # another number drops rows without a word
    context.raise_original_map_exception = True  # Ray's own tells what failed in forty lines of traceback
