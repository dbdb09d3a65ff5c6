"""How often an item was begun: an object beside its shard's commits for each try, gone when the item is done.

unfinished/<shard>/<item>.try-<n> tells of the n-th try on which machine it was made and, where it is known,
how it ended. Ray repeats what a lost machine or process had in work without end; these objects count.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from threading import Lock
from typing import NoReturn

from pipeline.cluster import devices, nodes
from pipeline.messages import describe
from pipeline.output.columns import Row
from pipeline.output.folder import OutputFolder
from pipeline.stores import storage
from pipeline.worker.items import Item

log = logging.getLogger(__name__)

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


class Tried:
    """How a worker does items: each to its end, however many processes and machines it takes.

    node: of this process.
    """

    def __init__(self, output: OutputFolder, lease_id: str, node: str) -> None:
        self._output, self._lease_id, self._node = output, lease_id, node
        self._leaving = Lock()

    def rows(
        self, item: Item, make: Callable[[Item], list[Row]], condemn: Callable[[Item, str], Row]
    ) -> list[Row]:
        """The rows of an item, by `make`, once they are made. condemn: the row of one that ends processes.

        An item that took processes down again and again is done row by row, and a row that did is condemned.
        """
        earlier = before(self._output, item)
        number = len(earlier) + 1
        note(self._output, item, number, Try(self._node))
        alive = {self._node, *(node["NodeID"] for node in nodes.alive())} if earlier else set()
        try:
            if not is_deadly(earlier, alive):
                found = make(item)
                nodes.absolve(self._lease_id, self._node)
            elif len(item.wanted) > 1:
                found = [row for single in item.rows_alone() for row in self.rows(single, make, condemn)]
            else:
                found = [condemn(item, _ended(deaths(earlier, alive)))]
        except Exception as error:
            if devices.is_fault(error):
                self._leave(item, number, describe(error))
            raise
        end(self._output, item, number)
        return found

    def _leave(self, item: Item, number: int, message: str) -> NoReturn:
        """Ends this process, whose device failed; Ray begins the item again elsewhere."""
        self._leaving.acquire()  # for good: what another thread meets now is the same fault
        log.error("device failed", extra={"error": message})
        with suppress(Exception):  # of a store or of Ray: this process ends in any case
            note(self._output, item, number, Try(self._node, message))
            nodes.blame(self._lease_id, self._node, item.id, message)
        os._exit(devices.FAILED)


def _ended(deaths: Sequence[Try]) -> str:
    causes = [one.cause for one in deaths if one.cause]
    return "; ".join([f"ended its process: {len(deaths)} times", *causes[-1:]])


def _url(output: OutputFolder, item: Item, number: int) -> str:
    return output.at(output.try_file(item.shard.name, item.id, number))
