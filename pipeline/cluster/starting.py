"""A worker's start: what passes by itself is waited for, and no failed one ends the run.

Ray starts a process that ended again without end, and never an actor whose constructor raised. So what a wait
may mend (weights out of reach, a device still held) ends the process, and only what no wait can mend, the
job's own fault, is raised.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Set
from typing import Any, NoReturn, TypeVar

from pipeline.cluster import board, devices, nodes
from pipeline.messages import describe, readable

log = logging.getLogger(__name__)

T = TypeVar("T")
WAITS = (1, 2, 5, 10, 20, 40, 60, 120, 180, 180)  # seconds, ten minutes in all
TOPIC = "starts"
FAILED_STARTS = 6  # on each machine, and none ever made, after which the run ends
COULD_NOT_START = 17  # the process's exit status


def started(make: Callable[[], T], device: str, run: str, node: str) -> T:
    """What `make` makes on a device that was tested. Raises its ValueError; ends the process for others."""
    for wait in WAITS:
        try:
            _note(run, node)
            devices.check(device)
            made = make()
        except ValueError:
            raise
        except devices.DeviceFault as fault:  # perhaps another machine's is better
            failed = _note(run, node, failed=describe(fault))
            nodes.blame(run, node, f"start {os.getpid()}", describe(fault))
            time.sleep(WAITS[min(failed, len(WAITS)) - 1])
            _give_up(fault)
        except Exception as error:  # of stores, of CUDA, of memory
            _note(run, node, failed=describe(error))
            log.warning("start failed", extra={"error": describe(error), "seconds": wait})
            time.sleep(wait)
            last = error
        else:
            _note(run, node, made=True)
            return made
    return _give_up(last)


def hopeless(run: str, alive: Set[str]) -> str | None:
    """Why no worker of the run can start, once each of the nodes has tried long enough; else None."""
    found = [start for node, start in board.read(run, TOPIC).items() if node in alive or start["made"]]
    if found and all(start["failed"] >= FAILED_STARTS and not start["made"] for start in found):
        return str(found[0]["error"])
    return None


def _note(run: str, node: str, *, failed: str | None = None, made: bool = False) -> int:
    """Notes on the board that a worker of a node starts, failed, or has started; the failures there."""
    start: dict[str, Any] = board.get(run, TOPIC, node) or {"failed": 0, "made": False, "error": None}
    if failed is not None:
        start |= {"failed": start["failed"] + 1, "error": readable(failed)}
    board.put(run, TOPIC, node, start | {"made": start["made"] or made})
    return int(start["failed"])


def _give_up(error: BaseException) -> NoReturn:
    log.error("worker could not start", extra={"error": describe(error)})
    os._exit(COULD_NOT_START)
