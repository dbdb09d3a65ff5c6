"""The items that one process works on at a time: a few of them, or one alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Room:
    """What items are worked on in. Its threads are many, and each is in it with one item."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside, self._taken = 0, False

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        """For as long as the block takes; waits until there is room. alone: for nothing else."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._taken or (alone and self._inside)))
            self._inside, self._taken = self._inside + 1, alone
        try:
            yield
        finally:
            with self._changed:
                self._inside, self._taken = self._inside - 1, False
                self._changed.notify_all()
