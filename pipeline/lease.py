"""One driver to an output: `lease.json` there says who writes, and is renewed for as long as that lives.

A driver that finds a living lease refuses. A dead driver's lease is taken over: when it was not renewed for
STALE_SECONDS, at once when its process was of this machine and is gone, and at once when a person says so.

Object stores have no locks, so the file is written, read back, and the id in it decides; whoever finds
another id than its own stops. Windows that remain: of two drivers that start within the same moment both may
read back their own id, and a driver that was suspended between its reading and its writing may overwrite its
successor's. Either is found at the next renewal at the latest, and every commit looks at the id first, so
for RENEW_SECONDS and the length of one write two drivers can work on one output. That costs time and no
truth: a commit is whole or not there, and a shard takes each key once. Clocks are taken to agree to within
STALE_SECONDS less RENEW_SECONDS.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline import storage

RENEW_SECONDS = 15.0
STALE_SECONDS = 60.0  # three renewals were missed, and a slow store had time for the fourth


class LeaseError(RuntimeError):
    """Another driver holds the output."""


@dataclass(frozen=True)
class Lease:
    """Who writes to an output. started, renewed: ISO 8601, UTC. machine: where `pid` means one process."""

    id: str
    host: str
    machine: str
    pid: int
    started: str
    renewed: str

    def is_dead(self) -> bool:
        age = datetime.now(UTC) - datetime.fromisoformat(self.renewed)
        return age.total_seconds() > STALE_SECONDS or (self.machine == _machine() and not _lives(self.pid))

    def __str__(self) -> str:
        return f"host {self.host}, process {self.pid}, started {self.started}, last seen {self.renewed}"


@contextmanager
def hold(output: str, *, take_over: bool, lost: Callable[[str], None]) -> Iterator[str]:
    """Holds the lease of an output for as long as the block takes; gives its id.

    take_over: takes it even from a driver that seems alive. lost: called from another thread, once, with a
    sentence, when another driver has taken the lease. Raises LeaseError when another driver holds it.
    """
    holder = _read(output)
    if holder is not None and not take_over and not holder.is_dead():
        raise LeaseError(_refusal(output, holder))
    now = _now()
    lease = Lease(uuid.uuid4().hex, socket.gethostname(), _machine(), os.getpid(), now, now)
    _write(output, lease)
    check(output, lease.id)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(output, lease, ended, lost), daemon=True)
    keeper.start()
    try:
        yield lease.id
    finally:
        ended.set()
        keeper.join(RENEW_SECONDS)  # a store that hangs must not keep the command from its end
        with suppress(Exception):  # of many kinds; a lease that stays is dead within the minute
            check(output, lease.id)
            storage.remove(_url(output))


def check(output: str, lease_id: str) -> None:
    """Raises LeaseError unless the lease of the output is this one."""
    holder = _read(output)
    if holder is None:
        raise LeaseError(f"{_url(output)} is gone: another driver took over this output, and has ended")
    if holder.id != lease_id:
        raise LeaseError(f"output: {output} was taken over by another driver: {holder}")


def _keep(output: str, lease: Lease, ended: threading.Event, lost: Callable[[str], None]) -> None:
    while not ended.wait(RENEW_SECONDS):
        try:
            check(output, lease.id)
            _write(output, replace(lease, renewed=_now()))
        except LeaseError as error:
            lost(str(error))
            break
        except Exception:  # the store may be back in time for the next renewal
            continue


def _refusal(output: str, holder: Lease) -> str:
    return (
        f"output: {output} is in work by another driver: {holder}. Wait for it or stop it; if it is dead, "
        f"its lease ends {STALE_SECONDS:.0f} s after it was last seen, and --take-over ends it at once"
    )


def _url(output: str) -> str:
    return storage.join(output, "lease.json")


def _read(output: str) -> Lease | None:
    """The lease; None where there is none, or a file that is no lease."""
    if not storage.exists(_url(output)):
        return None
    try:
        return Lease(**json.loads(storage.read_text(_url(output))))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(output: str, lease: Lease) -> None:
    storage.write_text(_url(output), json.dumps(asdict(lease), indent=2) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> str:
    """This boot of this machine and the process namespace (a container's own) on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux
        return f"{uuid.getnode():x}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
