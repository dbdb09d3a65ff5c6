"""How often an item was begun: an object beside its shard's commits for each try, gone when the item is done.

unfinished/<shard>/<item>.try-<n> tells of the n-th try on which machine it was made and, where it is known,
how it ended. Ray repeats what a lost machine or process had in work without end; these objects count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from itertools import count, takewhile

from pipeline.output.folder import OutputFolder
from pipeline.stores import storage
from pipeline.worker.items import Item

DEADLY = 3  # deaths of an item after which it is done row by row, and of a row after which it is an error
ANYWHERE = 10  # as many, where each took its whole machine along: hardly another's doing any more


@dataclass(frozen=True)
class Try:
    """node: on which it was made. cause: what ended it, where its process lived to tell."""

    node: str
    cause: str = ""


def before(output: OutputFolder, item: Item) -> list[Try]:
    """The tries that did not end."""
    urls = (_url(output, item, number) for number in count(1))
    return [Try(**json.loads(storage.read_text(url))) for url in takewhile(storage.exists, urls)]


def note(output: OutputFolder, item: Item, number: int, content: Try) -> None:
    """Writes what is known of a try, the first of which is number 1."""
    storage.write_text(_url(output, item, number), json.dumps(asdict(content)))


def end(output: OutputFolder, item: Item, number: int) -> None:
    """Removes so many tries, the latest first: what a kill leaves is counted from the first."""
    for one in range(number, 0, -1):
        storage.remove(_url(output, item, one))


def deaths(before: Sequence[Try], alive: Set[str]) -> list[Try]:
    """Those that the item is to blame for. alive: the nodes; one that was lost took its processes along."""
    return list(before) if len(before) >= ANYWHERE else [one for one in before if one.node in alive]


def is_deadly(before: Sequence[Try], alive: Set[str]) -> bool:
    """Whether the item took down so many processes that it is not tried as a whole again."""
    return len(deaths(before, alive)) >= DEADLY


def _url(output: OutputFolder, item: Item, number: int) -> str:
    return output.at(output.try_file(item.shard.name, item.id, number))
