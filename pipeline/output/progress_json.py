"""progress.json: who works on an output, since when and how far, with every earlier start of the run.

Whoever looks at the folder finds the Ray job to ask about. A process that is killed cannot write its end: its
entry says `running` with the time it was last seen, and the next start marks it `interrupted`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self

from pipeline.output.folder import PROGRESS, OutputFolder, now

State = Literal["running", "complete", "stopped", "failed"]
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what `ray job submit` gives the command it starts


def submission_id() -> str | None:
    """The id that `ray job submit` printed, where this process is what it started."""
    try:
        found = json.loads(os.environ.get(JOB_CONFIG, "{}"))["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(found)


class Start:
    """This start's entry in progress.json, written when the block begins, at each `update`, and when it ends.

    rows: of the run's input, known once it was scanned. done, errors: those with a row in the output.
    """

    def __init__(self, output: OutputFolder) -> None:
        self._output = output
        self._entry: dict[str, Any] = {
            "state": "running",
            "rows": None,
            "done": None,
            "errors": None,
            "checkpointing": False,
            "updated": None,
            "started": now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "submission_id": submission_id(),
        }
        self._earlier: list[Mapping[str, Any]] = []

    def __enter__(self) -> Self:
        self._earlier = _with_their_end(self._output)
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end("complete")
        else:
            self.failed(error)

    def update(self, rows: int, done: int, errors: int) -> None:
        """Raises OSError where it cannot be written."""
        self._entry |= {"rows": rows, "done": done, "errors": errors}
        self._write()

    def checkpointing(self) -> None:
        """Notes, with the next update, that images took too much memory without activation checkpointing."""
        self._entry["checkpointing"] = True

    def stopping(self) -> None:
        """Notes that the run was told to stop: a kill may come before its end."""
        with contextlib.suppress(OSError):
            self._end("stopped")

    def failed(self, error: BaseException) -> None:
        """Notes how the run ended. That it cannot be written is no news beside the error itself."""
        if self._entry["state"] in ("running", "stopped"):
            with contextlib.suppress(OSError):
                stopped = isinstance(error, KeyboardInterrupt | SystemExit)
                message = "" if isinstance(error, SystemExit) else str(error)
                told = message.strip().splitlines()[-1:]  # the last line of what Ray tells has the cause
                self._end("stopped" if stopped else "failed", "".join(told))

    def _end(self, state: State, message: str | None = None) -> None:
        self._entry |= {"state": state} | ({"message": message} if message else {})
        self._write()

    def _write(self) -> None:
        self._entry["updated"] = now()
        self._output.write_json(PROGRESS, self._entry | {"earlier": self._earlier})


def _with_their_end(output: OutputFolder) -> list[Mapping[str, Any]]:
    """The entries of the starts before this one."""
    last = output.json(PROGRESS)
    if not last:
        return []
    if not {"earlier", "state"} <= set(last):
        raise output.damaged(PROGRESS, "no start in it")
    earlier = last.pop("earlier")
    if last["state"] == "running":
        last["state"] = "interrupted"
    return [*earlier, last]
