"""What a thread does again and again beside the main one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float, act: Callable[[], bool | None], *, patience: float) -> Iterator[threading.Thread]:
    """While entered, a thread calls `act` after each so many seconds, until it gives False.

    patience: seconds that the end waits for a call under way, which may hang; the thread then goes on alone.
    """
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds) and act() is not False:
            pass

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        ended.set()
        thread.join(patience)
