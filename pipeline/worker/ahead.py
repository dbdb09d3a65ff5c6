"""Reading ahead: rows are read while those before them are restored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
ROWS = 4  # read ahead at most; images are large
_END = object()


def ahead(rows: Iterator[T], reader: ThreadPoolExecutor) -> Iterator[T]:
    """The same rows in order, read by the one thread of `reader`; raises what reading one raised.

    One thread for a process's whole life: the clients of stores are kept by thread. It is as patient with
    them as the caller is.
    """

    def submit() -> Future[T | object]:
        return reader.submit(copy_context().run, lambda: next(rows, _END))

    waiting = deque(submit() for _ in range(ROWS))
    while (row := waiting.popleft().result()) is not _END:
        waiting.append(submit())
        yield row  # type: ignore[misc]


def side_by_side(calls: Iterable[Callable[[], T]], readers: ThreadPoolExecutor, most: int) -> Iterator[T]:
    """The calls' results in order; at most `most` are under way or not yet taken. Raises what one did."""
    waiting: deque[Future[T]] = deque()
    for call in calls:
        if len(waiting) == most:
            yield waiting.popleft().result()
        waiting.append(readers.submit(copy_context().run, call))
    while waiting:
        yield waiting.popleft().result()
