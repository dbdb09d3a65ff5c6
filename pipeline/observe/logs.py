"""Events as JSON, one a line, through the standard `logging` module.

Every module of this package logs with a logger of its own name and gives an event's values as `extra`; where
the lines go is set here, for the package's logger:

workers     to their standard error, which Ray keeps in its log folder as worker-*.err;
driver      to p2l-<run>.log in the same folder; to standard error where P2L_LOG=json, for `ray job logs`,
            `kubectl logs` and whatever else collects a container's output.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from pipeline.config import ConfigError

VARIABLE = "P2L_LOG"
LONGEST = 2000  # characters of one value; keys and messages come from data
_PACKAGE = logging.getLogger("pipeline")
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class JSONFormatter(logging.Formatter):
    """One object a line: time, severity and message as Cloud Logging knows them, run, values, Ray's ids."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
            "run": self.run,
        }
        event |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            event["stack_trace"] = self.formatException(record.exc_info)
        return json.dumps({name: _cut(value) for name, value in event.items()} | _ids(), default=str)


def of_worker(run: str) -> None:
    """Sends what this worker process logs to its standard error; called again, as that of another run."""
    _PACKAGE.handlers[:] = [_json(logging.StreamHandler(), run)]


@contextmanager
def of_driver(run: str, folder: Path) -> Iterator[None]:
    """Sends what this process logs to a file in `folder`, or where P2L_LOG=json to standard error.

    Raises ConfigError for another value of P2L_LOG.
    """
    kind = os.environ.get(VARIABLE, "")
    if kind not in ("", "json"):
        raise ConfigError(
            [
                f"{VARIABLE}: got {kind!r}; allowed: json, for events on standard error; unset, for them in "
                "Ray's log folder"
            ]
        )
    handler = _json(
        logging.StreamHandler() if kind else logging.FileHandler(folder / f"p2l-{run}.log", encoding="utf-8"),
        run,
    )
    _PACKAGE.addHandler(handler)
    try:
        yield
    finally:
        _PACKAGE.removeHandler(handler)
        handler.close()


def _json(handler: logging.Handler, run: str) -> logging.Handler:
    handler.setFormatter(JSONFormatter(run))
    _PACKAGE.setLevel(logging.INFO)
    return handler


def _ids() -> dict[str, str]:
    """Ray's names of this job, node, worker and actor; none outside of Ray."""
    if not ray.is_initialized():
        return {}
    context = ray.get_runtime_context()
    ids = {
        "job_id": context.get_job_id(),
        "node_id": context.get_node_id(),
        "worker_id": context.get_worker_id(),
        "actor_id": context.get_actor_id(),
    }
    return {name: value for name, value in ids.items() if value}


def _cut(value: Any) -> Any:
    return value[:LONGEST] if isinstance(value, str) else value
