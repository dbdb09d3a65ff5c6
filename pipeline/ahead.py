"""Reading ahead: rows are read while those before them are restored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
ROWS = 4  # read ahead at most; images are large
_END = object()


def ahead(rows: Iterator[T], reader: ThreadPoolExecutor) -> Iterator[T]:
    """The same rows in order, read by the one thread of `reader`; raises what reading one raised.

    One thread for a process's whole life: the clients of stores are kept by thread.
    """
    waiting: deque[Future[T | object]] = deque(reader.submit(next, rows, _END) for _ in range(ROWS))
    while (row := waiting.popleft().result()) is not _END:
        waiting.append(reader.submit(next, rows, _END))
        yield row  # type: ignore[misc]
