"""Starting Ray, or joining it: what its core needs to be told, and what its errors do not say."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import ray

import p2l_first
import pipeline

SOCKET = (
    "/ray/session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store"  # below Ray's temporary folder
)
LONGEST_SOCKET = 107  # bytes that Unix allows a socket's path
TOO_BUSY = "timed out during startup"  # what Ray says where the machine did not start it within 30 s
TRIES = 3  # then
TASK_CPUS = 0.5  # booked by each task that reads or writes; see `pipeline.run.pool`
SHORT_FOLDER = f"/tmp/ray-{os.getuid()}"


def start() -> None:
    """The cluster of RAY_ADDRESS, else a Ray on this machine. Raises RuntimeError when none can be had."""
    cpus = (os.cpu_count() or 1) + 2
    # By itself Ray keeps an idle process for each free CPU. Tasks book half of one: it would end and start
    # processes all the time.
    os.environ.setdefault("RAY_num_workers_soft_limit", str(round(cpus / TASK_CPUS)))
    # Ray's core warns of what Ray Data does by design.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    where: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        where = {
            "address": "local",
            "num_cpus": cpus,
            "include_dashboard": False,
            "_temp_dir": temporary_folder(),
        }
    try:
        with _silent_core():
            init(**where, runtime_env=workers_environment())
    except Exception as error:  # Ray raises bare ones
        raise RuntimeError(f"Ray did not start: {error}{advice()}") from error


def init(**how: Any) -> None:
    """`ray.init`, kept quiet, and again where the machine was too busy for it. Raises what that raises."""
    for left in reversed(range(TRIES)):
        try:
            ray.init(**how, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:
            if TOO_BUSY not in str(error) or not left:
                raise
            ray.shutdown()


def temporary_folder() -> str | None:
    """Where Ray keeps sockets and logs; None for its own choice, below $RAY_TMPDIR, $TMPDIR or /tmp.

    Batch systems set a TMPDIR of their own, often too long for the path of a socket.
    """
    chosen = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return SHORT_FOLDER if len(os.fsencode(chosen + SOCKET)) > LONGEST_SOCKET else None


def advice() -> str:
    """What Ray does not say of a cluster that turns a driver without a token away."""
    if not os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_AUTH_MODE") == "token":
        return ""
    return (
        "; is RAY_ADDRESS right? A cluster with token authentication, as Ray starts it where there is a "
        "~/.ray/auth_token, also needs RAY_AUTH_MODE=token in this command's environment"
    )


def workers_environment() -> dict[str, Any] | None:
    """What each worker runs first where it would find another `pipeline`, in folders that Ray puts first."""
    found = PathFinder.find_spec("pipeline", [str(Path.cwd()), *sys.path])
    if found is not None and found.origin is not None and Path(found.origin).samefile(pipeline.__file__):
        return None
    ray.cloudpickle.register_pickle_by_value(p2l_first)
    return {"worker_process_setup_hook": p2l_first.own_packages}


@contextmanager
def _silent_core() -> Iterator[None]:
    """Ray's core, told to be silent, says on standard error that it was told so."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
