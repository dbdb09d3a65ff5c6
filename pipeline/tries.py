"""How often an item was begun: an object beside its shard's commits for each try, gone when the item is done.

unfinished/<shard>/<item>.try-<n> holds the node of the n-th try. Ray repeats the items of a lost machine or
process without end; these objects are the memory of it.
"""

from __future__ import annotations

from itertools import count, takewhile

from pipeline import sink, storage
from pipeline.work import Item


def begin(output: str, item: Item, node: str) -> list[str]:
    """Notes a try on this node; gives the nodes of the tries before it that did not end."""
    urls = _urls(output, item)
    storage.write_text(sink.try_url(output, item.shard.name, item.id, len(urls) + 1), node)
    return [storage.read_text(url) for url in urls]


def end(output: str, item: Item) -> None:
    """Removes the item's tries, the latest first: what a kill leaves is counted from the first."""
    for url in reversed(_urls(output, item)):
        storage.remove(url)


def _urls(output: str, item: Item) -> list[str]:
    urls = (sink.try_url(output, item.shard.name, item.id, number) for number in count(1))
    return list(takewhile(storage.exists, urls))
