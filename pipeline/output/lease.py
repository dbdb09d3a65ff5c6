"""One driver to an output: `lease.json` there says who writes, and is renewed for as long as that lives.

A driver that finds a lease watches it for STALE_SECONDS of its own clock: one that was renewed is alive, and
the driver is refused; one that was not is a dead driver's, and is taken over. At once it is taken over when
its process was of this machine and is gone, or when a person says so. No two machines' clocks are compared.

Every write names the lease that it replaces (`stores.exclusive`), so of two drivers only one gets it, and
one that was suspended cannot overwrite its successor's. Every commit looks at the id first; a driver that
was taken over may still work for RENEW_SECONDS and the length of one write. That costs time and no truth: a
commit is whole or not there, and a shard takes each key once.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.output.folder import LEASE, OutputFolder, json_text, now
from pipeline.stores import exclusive, storage
from pipeline.stores.exclusive import Changed, Stored
from pipeline.threads import every

RENEW_SECONDS = 15.0
STALE_SECONDS = 60.0  # three renewals were missed, and a slow store had time for the fourth
END_SECONDS = 15.0  # that the end of a run waits for a renewal under way
WATCH_SECONDS = 2.0  # between two looks at another driver's lease


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
        """Whether its process was of this machine and is gone."""
        return self.machine == this_machine() and not _lives(self.pid)

    def __str__(self) -> str:
        return f"host {self.host}, process {self.pid}, started {self.started}, last seen {self.renewed}"


@contextmanager
def hold(
    output: OutputFolder, *, take_over: bool, lost: Callable[[str], None], say: Callable[[str], None]
) -> Iterator[str]:
    """Holds the lease of an output for as long as the block takes; gives its id.

    take_over: takes it even from a driver that seems alive. lost: called from another thread, once, with a
    sentence, when another driver has taken the lease. say: called with a sentence before a wait. Raises
    LeaseError when another driver holds it.
    """
    start = now("milliseconds")
    lease = Lease(uuid.uuid4().hex, socket.gethostname(), this_machine(), os.getpid(), start, start)
    _take(output, lease, take_over, say)
    check(output, lease.id)
    try:
        # A store that hangs must not keep the command from its end.
        with every(RENEW_SECONDS, lambda: _renew(output, lease, lost), patience=END_SECONDS):
            yield lease.id
    finally:
        with suppress(Exception):  # of many kinds; a lease that stays is dead within the minute
            exclusive.remove(_url(output), _own(output, lease.id))


def check(output: OutputFolder, lease_id: str) -> None:
    """Raises LeaseError unless the lease of the output is this one."""
    try:
        text = storage.read_text(_url(output))
    except FileNotFoundError:
        raise _gone(output) from None
    _check(output, text, lease_id)


def _take(output: OutputFolder, lease: Lease, take_over: bool, say: Callable[[str], None]) -> None:
    """Writes the lease in place of none, a dead driver's, or with take_over of any."""
    while True:
        found = exclusive.read(_url(output))
        if found is not None and not take_over:
            found = _outlived(output, found, say)
        try:
            return exclusive.write(_url(output), _text(lease), found)
        except Changed:  # another driver's start, or a renewal
            continue


def _outlived(output: OutputFolder, found: Stored, say: Callable[[str], None]) -> Stored | None:
    """The lease once its driver is known to be dead; None once there is none. Raises LeaseError else."""
    holder = _parse(found.text)
    if holder is not None and holder.is_dead():
        return found
    who = holder or "someone who wrote no lease"
    say(f"{_url(output)} is by {who}; taken over unless it changes within {STALE_SECONDS:.0f} s")
    start = time.monotonic()
    while time.monotonic() - start < STALE_SECONDS:
        time.sleep(WATCH_SECONDS)
        later = exclusive.read(_url(output))
        if later is None:
            return None
        if later.version != found.version:
            raise LeaseError(_refusal(output, _parse(later.text)))
    return found


def _renew(output: OutputFolder, lease: Lease, lost: Callable[[str], None]) -> bool:
    """Whether the lease is still this one, as far as is known."""
    try:
        exclusive.write(
            _url(output), _text(replace(lease, renewed=now("milliseconds"))), _own(output, lease.id)
        )
    except LeaseError as error:
        lost(str(error))
        return False
    except Exception:  # the store may be back, or the lease another's, at the next renewal
        return True
    return True


def _own(output: OutputFolder, lease_id: str) -> Stored:
    """The lease as it stands. Raises LeaseError where it is another's, or gone."""
    found = exclusive.read(_url(output))
    if found is None:
        raise _gone(output)
    _check(output, found.text, lease_id)
    return found


def _check(output: OutputFolder, text: str, lease_id: str) -> None:
    holder = _parse(text)
    if holder is None:
        raise LeaseError(f"{_url(output)} was overwritten with what is no lease: {text[:60]!r}")
    if holder.id != lease_id:
        raise LeaseError(f"output: {output} was taken over by another driver: {holder}")


def _gone(output: OutputFolder) -> LeaseError:
    return LeaseError(f"{_url(output)} is gone: another driver took over this output, and has ended")


def _refusal(output: OutputFolder, holder: Lease | None) -> str:
    return (
        f"output: {output} is in work by another driver: {holder or 'unknown'}. Wait for it or stop it; "
        "--take-over ends its lease at once"
    )


def _url(output: OutputFolder) -> str:
    return output.at(LEASE)


def _parse(text: str) -> Lease | None:
    try:
        return Lease(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _text(lease: Lease) -> str:
    return json_text(asdict(lease))


def this_machine() -> str:
    """This boot of this machine and the process namespace (a container's own) on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
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
