"""Ten days of machines that are taken away, in seconds: a model of a run by the pipeline's own rules.

Each machine of the model restores items as `pipeline.worker.actor` does: micro-batch after micro-batch, with
a commit each `COMMIT_SECONDS` and at the item's end. It lives for an exponentially distributed time. Each
loss leaves a try behind (`pipeline.worker.tries`). Most are announced; of the others Ray calls the machine
alive until it notices. What was not committed is restored again by the successor, which takes over what its
predecessor had in hand. `tries.is_deadly` decides, as in a run, which items are done row by row and which
rows become errors. Some rows end each process that restores them, so that this has to happen, to them alone.

Beside it stands the rule of Ray, by which a run ended when an item's process had died ten times: a machine
that went without a word cost seven of nine retries, one that was drained a single one, of both items in hand.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from jobs.tables.figures import line
from pipeline.worker.actor import COMMIT_SECONDS
from pipeline.worker.tries import Try, is_deadly

IN_HAND = 2  # items of a worker: the one at work, and the next
NOTICED = 30.0  # s until Ray knows of a machine that went without a word
RESTART = 60.0  # s until another process of the same machine restores
RETRIES, PER_SUDDEN_LOSS = 9, 7  # of Ray to an item, and what a loss without a word cost of them, as counted


@dataclass(frozen=True)
class Setting:
    """A run. rate: losses an hour of a machine, of which a share is sudden. seconds: an image takes.

    item, batch: images of an item and of a micro-batch. start: s until a lost machine's successor restores.
    killers: rows, evenly spread and at most one to an item, that end the process which restores them.
    """

    machines: int
    images: int
    seconds: float
    rate: float
    sudden: float
    item: int
    batch: int
    start: float
    killers: int = 0


@dataclass
class Block:
    """An item. done: rows committed. tries: those that did not end. killer: its row that ends processes."""

    number: int
    rows: int
    killer: int | None = None
    done: int = 0
    tries: list[Try] = field(default_factory=list)


@dataclass(frozen=True)
class Loss:
    """A machine that went, when, in seconds, and the items that it had in hand."""

    at: float
    sudden: bool
    blocks: tuple[int, ...]


@dataclass
class Outcome:
    """What became of a run. seconds: it took. redone, starting: s of machines, over all of them."""

    seconds: float = 0.0
    redone: float = 0.0
    starting: float = 0.0
    longest_silence: float = 0.0  # between two commits, of whichever machines
    row_by_row: int = 0
    errors: int = 0
    rows: int = 0
    losses: list[Loss] = field(default_factory=list)


def simulate(setting: Setting, chance: random.Random) -> Outcome:
    """The run, to its last row."""
    model = _Model(setting, chance)
    # The places run one at a time, always the one whose clock is behind all others'.
    clocks = [(0.0, number, model.place(number)) for number in range(setting.machines)]
    while clocks:
        _, number, place = heapq.heappop(clocks)
        if (now := next(place, None)) is not None:
            heapq.heappush(clocks, (now, number, place))
    commits = sorted([0.0, *model.commits])
    silences = [after - before for before, after in pairwise(commits)]
    model.outcome.longest_silence = max(silences)
    model.outcome.seconds = commits[-1]
    return model.outcome


def ends_by_rays_count(losses: Sequence[Loss]) -> list[float]:
    """When, in seconds, a run would have ended that an item's tenth death ends, begun again each time."""
    spent: Counter[int] = Counter()
    ends = []
    for loss in sorted(losses, key=lambda loss: loss.at):
        for block in loss.blocks:
            spent[block] += PER_SUDDEN_LOSS if loss.sudden else 1
        if any(spent[block] > RETRIES for block in loss.blocks):
            ends.append(loss.at)
            spent.clear()
    return ends


class _Model:
    def __init__(self, setting: Setting, chance: random.Random) -> None:
        self.setting, self.chance = setting, chance
        self.queue = deque(_blocks(setting))
        self.gone: dict[str, float] = {}  # when Ray noticed, by machine
        self.commits: list[float] = []
        self.outcome = Outcome()

    def place(self, number: int) -> Generator[float]:
        """One machine after another, and what they do; each time at which the next item is begun."""
        now, generation = 0.0, 0
        in_hand: deque[Block] = deque()
        while self.queue or in_hand:
            self.outcome.starting += self.setting.start
            now += self.setting.start
            node, generation = f"{number}.{generation}", generation + 1
            lost_at = now + self.chance.expovariate(self.setting.rate / 3600)
            yield now
            while now < lost_at:
                while self.queue and len(in_hand) < IN_HAND:
                    in_hand.append(self.queue.popleft())
                if not in_hand:
                    return
                now = self._item(in_hand, node, now, lost_at)
                yield now
            sudden = self.chance.random() < self.setting.sudden
            self.outcome.losses.append(Loss(lost_at, sudden, tuple(block.number for block in in_hand)))
            if sudden:
                now += NOTICED
            self.gone[node] = now

    def _item(self, in_hand: deque[Block], node: str, now: float, lost_at: float) -> float:
        """Works on the first item in hand, and takes it out when it is done; the time that it is then."""
        block = in_hand[0]
        before = list(block.tries)
        block.tries.append(Try(node))
        if is_deadly(before, {one.node for one in before if self.gone.get(one.node, now + 1) > now}):
            in_hand.popleft()
            if block.rows > 1:
                self.outcome.row_by_row += 1
                left = range(block.done, block.rows)
                in_hand.extendleft(
                    Block(block.number, 1, 0 if row == block.killer else None) for row in reversed(left)
                )
            else:
                self.outcome.errors += 1
                self._commit(1, now)
            return now
        last = now
        while block.done < block.rows:
            rows, committed = 0, False
            while not committed:
                batch = min(self.setting.batch, block.rows - block.done - rows)
                if block.killer is not None and block.done + rows <= block.killer < block.done + rows + batch:
                    return min(lost_at, now + RESTART)
                now += batch * self.setting.seconds
                if now >= lost_at:
                    self.outcome.redone += lost_at - last
                    return lost_at
                rows += batch
                committed = now - last >= COMMIT_SECONDS or block.done + rows == block.rows
            block.done += rows
            self._commit(rows, now)
            last = now
        in_hand.popleft()
        return now

    def _commit(self, rows: int, now: float) -> None:
        self.outcome.rows += rows
        self.commits.append(now)


def _blocks(setting: Setting) -> Iterator[Block]:
    killers = {number * setting.images // setting.killers for number in range(setting.killers)}
    for number, start in enumerate(range(0, setting.images, setting.item)):
        rows = range(start, min(start + setting.item, setting.images))
        yield Block(number, len(rows), next((row - start for row in rows if row in killers), None))


def table(settings: Sequence[Setting], usd_an_hour: float, seed: int) -> str:
    """A Markdown table with a line for each setting: by the present rules, and by Ray's count beside them."""
    columns = [
        *(
            "losses an hour",
            "sudden",
            "rows done",
            "days",
            "machines lost",
            "restored again, GPU-hours",
            "dollars",
        ),
        *("items done row by row", "other rows made errors", "longest silence, minutes"),
        "by Ray's count of ten deaths",
    ]
    lines = [line(columns), line(["---"] * len(columns))]
    for setting in settings:
        found = simulate(setting, random.Random(seed))
        former = replace(setting, item=8, batch=8, killers=0)
        ends = ends_by_rays_count(simulate(former, random.Random(seed)).losses)
        hours = found.redone / 3600
        cells = [
            *(f"{setting.rate:g}", f"{setting.sudden:.0%}", f"{found.rows:,}"),
            *(
                f"{found.seconds / 86400:.1f}",
                f"{len(found.losses):,}",
                f"{hours:.0f}",
                f"{hours * usd_an_hour:.0f}",
            ),
            *(f"{found.row_by_row}", f"{found.errors - setting.killers}"),
            f"{found.longest_silence / 60:.0f}",
            f"ended {len(ends)} times, first after {ends[0] / 3600:.0f} h" if ends else "not ended",
        ]
        lines.append(line(cells))
    return "\n".join(lines)
