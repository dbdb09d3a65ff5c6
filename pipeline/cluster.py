"""The Ray that a run works on, and how its machines are shared between actors and reads."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from pipeline.config import JobConfig
from pipeline.restore import ActorOptions

# CPUs are bookkeeping to Ray. An actor books half of one, and so does each task that reads: a pool can never
# book all there is and leave the reads waiting for ever, even on a single CPU.
ACTOR_CPUS = 0.5
NO_PROGRESS_SECONDS = 24 * 3600  # a commit of the exact algorithm can take hours on a slow machine


@contextmanager
def ray_session() -> Iterator[None]:
    """The Ray in use, else the cluster of RAY_ADDRESS, else one on this machine for as long as it takes.

    Raises RuntimeError when none can be had.
    """
    started = not ray.is_initialized()
    if started:
        on_this_machine: dict[str, Any] = {
            "address": "local",
            "num_cpus": (os.cpu_count() or 1) + 2,
            "include_dashboard": False,
        }
        # Ray's core warns of what Ray Data does by design; with this it says only that it was told not to.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        where: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else on_this_machine
        try:
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises a bare one where a machine is too busy to start it in time
            raise RuntimeError(f"Ray did not start: {error}") from error
    _quieten()
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
    context.execution_no_progress_timeout_s = NO_PROGRESS_SECONDS
    warnings.filterwarnings("ignore", module="ray")
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def actor_options(config: JobConfig) -> ActorOptions:
    """Device, images at a time and threads of each actor on this cluster."""
    device = config.model.device
    if device == "auto":
        device = "cuda" if _has("GPU") else "cpu"
    if config.method["name"] == "adjoint":
        device = "cpu"
    cores = os.cpu_count() or 1
    threads = max(1, cores // pool_size(config, device)[1])
    return ActorOptions(device, batch_size(config, device), int(os.environ.get("OMP_NUM_THREADS", threads)))


def pool_size(config: JobConfig, device: str) -> tuple[int, int]:
    """Least and most actors. auto: one for each GPU, or one for each two CPUs."""
    if config.workers == "auto":
        booked = _has("GPU") if device == "cuda" else _has("CPU") / 2
        return (max(1, int(booked)),) * 2
    return (config.workers,) * 2 if isinstance(config.workers, int) else config.workers


def pool(config: JobConfig, device: str) -> ActorPoolStrategy:
    least, most = pool_size(config, device)
    return ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2)


def actor_resources(device: str) -> dict[str, Any]:
    """What each actor books."""
    return {"num_gpus": 1, "num_cpus": 0} if device == "cuda" else {"num_cpus": ACTOR_CPUS}


def batch_size(config: JobConfig, device: str) -> int:
    """Images an actor restores together; starts here and halves when memory runs out."""
    if config.batch_size != "auto":
        return config.batch_size
    if config.method["name"] == "adjoint":
        return 64
    return 8 if device == "cuda" else 4


def commit_every(config: JobConfig, device: str) -> int:
    """Images to a commit. auto: one micro-batch."""
    return batch_size(config, device) if config.commit_every == "auto" else config.commit_every


def _has(resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0))
