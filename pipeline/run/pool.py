"""How a cluster's machines are shared between actors and reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.data.context import AutoscalingConfig

from p2l_engine.priors.architecture import is_near
from p2l_engine.priors.networks import compiling
from p2l_engine.solvers import Sampler
from pipeline import feasible
from pipeline.cluster import nodes
from pipeline.config import ConfigError, JobConfig
from pipeline.worker.memory import Memory, TooLarge
from pipeline.worker.models import device_here
from pipeline.worker.options import ActorOptions

# CPUs are bookkeeping to Ray. An actor books half of one, and so does each task that reads: a pool can never
# book all there is and leave the reads waiting for ever, even on a single CPU.
ACTOR_CPUS = 0.5
STEPS_TO_TUNE = 50  # of a method; measuring takes four of each size
# Images together on a GPU: as many as 80 GB hold of Stable Diffusion in 16 bits at 512x512. Of a method with
# steps to tune, as many as fill it, for what is in work is lost with a machine.
QUICK, SLOW = 32, 8
QUICK_BATCHES = 4  # to a commit, of a method that costs nothing
IN_FLIGHT = 2  # items of an actor: the one on its device, and one that is read or committed meanwhile
GROW_AT, SHRINK_AT = 1.75, 0.5  # items in hand of an actor, at which its pool gets larger or smaller
OMP_THREADS = "OMP_NUM_THREADS"
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # by which Ray hands a submitted job what it was submitted with
UNPACKED = "runtime_resources"  # Ray's folder of unpacked working folders, on each machine


def refuse_vanishing_output(output: str) -> None:
    """Raises ConfigError for a folder that Ray unpacked for a job: relative paths of a submitted one."""
    if UNPACKED in output.split("/"):
        mend = "allowed: a URL, or an absolute path that every machine of the cluster shares"
        raise ConfigError([f"output: got {output}, in the copy of a working folder that Ray deletes; {mend}"])


def needs_model(config: JobConfig) -> bool:
    """Whether the method asks for a model; those that do not are done on CPUs."""
    return config.method.prior is not None


def costs_nothing(config: JobConfig) -> bool:
    """Whether the method neither asks for a model nor iterates."""
    return config.method.prior is None and not config.method.schedule(None)


def actor_options(config: JobConfig) -> ActorOptions:
    """Device, images at a time and threads of each actor on this cluster."""
    device = config.model.device
    if device == "auto":
        device = "cuda" if _has("GPU") else "cpu"
    if not needs_model(config):
        device = "cpu"
    tune = config.batch_size == "auto" and device == "cuda" and _is_slow(config)
    return options_of(device, batch_size(config, device), pool_size(config, device)[1], tune)


def options_of(device: str, batch_size: int, actors: int, tune: bool = False) -> ActorOptions:
    """Of each of so many actors, which Ray Data spreads over the machines that have what they book."""
    threads = _wanted_threads()
    share = 1 if device == "cuda" else -(-actors // max(1, _machines_with_cpus()))
    return ActorOptions(device, batch_size, int(threads) if threads else None, tune, share)


def _wanted_threads() -> str | None:
    """OMP_NUM_THREADS as the user set it; Ray sets 1 for its processes, and so for a submitted job's."""
    submitted = os.environ.get(SUBMITTED)
    if submitted is None:
        return os.environ.get(OMP_THREADS)
    wanted: str | None = (json.loads(submitted).get("runtime_env") or {}).get("env_vars", {}).get(OMP_THREADS)
    return wanted


def refuse_too_large(config: JobConfig, options: ActorOptions) -> None:
    """Raises ConfigError for a size that this machine's workers have no memory for.

    What other machines have their workers find out, whose rows tell of it.
    """
    if _joined() or not needs_model(config) or config.mode == "restore" or config.sides is None:
        return
    if not is_near(config.model.id):
        return
    try:
        Memory(config, options.device, options.share).fit(config.sides, 1)
    except TooLarge as error:
        raise ConfigError([f"size: {error}"]) from None


def refuse_missing_device(config: JobConfig) -> None:
    """Raises ConfigError where this machine's workers lack the device; other machines may have it."""
    if _joined() or not needs_model(config):
        return
    # Asked for, not tried: a context that this process opened on a GPU would stay there beside the worker's.
    if device_here(config.model.device) == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["model.device: got 'cuda', which is not to be had here; allowed: auto, cpu"])


def refuse_uncompiled(config: JobConfig) -> None:
    """Raises ConfigError where this machine's workers could not compile; other machines' find that out."""
    if not config.model.compile or _joined():
        return
    if problems := compiling.obstacles(gpu=device_here(config.model.device) == "cuda"):
        raise ConfigError([f"model.{problem}" for problem in problems])


def pool_size(config: JobConfig, device: str) -> tuple[int, int, int | None]:
    """Least actors, those to begin with, and most; None where only the cluster's GPUs bound them.

    auto: one for each GPU there is, with those that join later; on CPUs one for each two there are.
    """
    present = max(1, int(_has("GPU") if device == "cuda" else _has("CPU") / 2))
    if config.workers == "auto":
        return (1, present, None) if device == "cuda" else (present,) * 3
    least, most = (config.workers,) * 2 if isinstance(config.workers, int) else config.workers
    # GPUs come when actors ask for them, and Ray asks for few more at a time: all ask at the beginning.
    return least, most if device == "cuda" else min(max(least, present), most), most


def wanted(config: JobConfig, device: str) -> int:
    """Actors that the job would like to have."""
    _, first, most = pool_size(config, device)
    return most or first


def pool(config: JobConfig, device: str) -> ActorPoolStrategy:
    """The pool of actors, each with as many items as it has threads for."""
    least, first, most = pool_size(config, device)
    return ActorPoolStrategy(
        min_size=least,
        initial_size=first,
        max_size=most,
        max_tasks_in_flight_per_actor=IN_FLIGHT,
        max_concurrent_calls_per_actor=IN_FLIGHT,
        enable_true_multi_threading=True,
    )


def grow_when_busy() -> None:
    """Has Ray add actors to pools whose actors all have their items in hand, and end those that have few.

    It compares the items in hand with the calls that actors can make at a time, and its own bounds are for
    one call: with two, no pool would ever reach them.
    """
    DataContext.get_current().autoscaling_config = AutoscalingConfig(
        actor_pool_util_upscaling_threshold=GROW_AT / IN_FLIGHT,
        actor_pool_util_downscaling_threshold=SHRINK_AT / IN_FLIGHT,
    )


def notes(config: JobConfig, device: str) -> Iterator[str]:
    """What was chosen for this cluster, and what its owner should know of it."""
    least, first, most = pool_size(config, device)
    if most is None:
        bound = "; one more for each GPU that joins"
    else:
        bound = f"; {least} to {most} as the cluster allows" if least < most else ""
    yield f"{first} {'actor' if first == 1 else 'actors'} on {device} to begin with{bound}"
    if _joined() and config.model.device == "auto" and device == "cpu" and needs_model(config):
        yield "no GPU in the cluster now; where it starts GPU machines on demand, set model.device=cuda"
    if device == "cuda" and config.model.dtype == "auto":
        yield "model.dtype auto: bfloat16 on GPUs of compute capability 8.0 and later, float32 on others"
    if device == "cuda":
        yield from feasible.slow_dtype(config.model.dtype)
    machines = len({node["NodeManagerAddress"] for node in nodes.alive()})
    if "://" not in config.output and machines > 1:
        yield f"{config.output} is a local path: all {machines} machines must share it"


def actor_resources(device: str) -> dict[str, Any]:
    """What each actor books. Its items are tried again without end when it dies (`pipeline.worker.tries`)."""
    booked = {"num_gpus": 1, "num_cpus": 0} if device == "cuda" else {"num_cpus": ACTOR_CPUS}
    return booked | {"max_restarts": -1, "max_task_retries": -1}


def batch_size(config: JobConfig, device: str) -> int:
    """Images an actor restores together, at most; fewer when as many are no faster or do not fit."""
    if config.batch_size != "auto":
        return config.batch_size
    if costs_nothing(config):
        return 64
    if device == "cpu":
        return 4
    return SLOW if _is_slow(config) else QUICK


def _is_slow(config: JobConfig) -> bool:
    return isinstance(config.method, Sampler) and config.method.steps >= STEPS_TO_TUNE


def commit_every(config: JobConfig, device: str) -> int:
    """Images that an actor takes at a time and commits together, unless they take very long.

    auto: the largest micro-batch; of a method that restores them in no time, some of them.
    """
    if config.commit_every != "auto":
        return config.commit_every
    return batch_size(config, device) * (QUICK_BATCHES if costs_nothing(config) else 1)


def shares(config: JobConfig, device: str) -> tuple[int, int]:
    """Images to an item, and the actors that the last ones are shared out to.

    Where rows cost nothing, small items would cost more than an actor that has none.
    """
    actors = 1 if costs_nothing(config) else wanted(config, device)
    return commit_every(config, device), actors


def gpus(device: str) -> float:
    """GPUs of the cluster now, for a run on that device."""
    return _has("GPU") if device == "cuda" else 0.0


def _joined() -> bool:
    """Whether the workers are those of a cluster that was there."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _machines_with_cpus() -> int:
    return len({node["NodeManagerAddress"] for node in nodes.alive() if node["Resources"].get("CPU")})


def _has(resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0))
