"""The end of a run on a pool of actors: how long they wait for the last of them, by simulation.

Items are cut by the pipeline's own `graph.items`, and given out as Ray Data does: to the actor that has the
fewest, two to each. Actors begin at random within one micro-batch, and a micro-batch takes its time to 5 %.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.input.rows import Reading
from pipeline.input.sources import Shard
from pipeline.run import graph
from pipeline.run.pool import IN_FLIGHT
from pipeline.worker.items import Work

SHARD_ROWS = 1000
JITTER = 0.05
SEEDS = 20


@dataclass(frozen=True)
class Pool:
    """actors: each of micro-batches of up to `batch` images.

    seconds: of a full one, of which the share `fixed` is the same for a single image.
    """

    actors: int = 32
    batch: int = 8
    seconds: float = 300.0
    fixed: float = 0.0

    def takes(self, images: int) -> float:
        """Seconds of a micro-batch."""
        return self.seconds * (self.fixed + (1 - self.fixed) * images / self.batch)


@dataclass(frozen=True)
class End:
    """seconds: of the run. idle: mean seconds that an actor has nothing to do before the run ends."""

    seconds: float
    idle: float

    def __str__(self) -> str:
        """Both, and the idle share of all actors' time."""
        return f"{self.seconds:.0f}, {self.idle:.0f}, {self.idle / self.seconds:.1%}"


def sizes(rows: int, batch: int, actors: int) -> list[int]:
    """Images of each item that a run of so many rows is cut into."""
    counts = [min(SHARD_ROWS, rows - first) for first in range(0, rows, SHARD_ROWS)]
    works = [
        Work(
            Shard(str(n), "parquet", "", (), Reading()),
            count,
            b"\xff" * -(-count // 8),
            count,
            bytes(8 * count),
        )
        for n, count in enumerate(counts)
    ]
    return [len(item.wanted) for item in graph.items(works, batch, actors)]


def simulate(items: Sequence[int], pool: Pool, seed: int) -> End:
    """The items on the pool, by the times at which actors begin and end micro-batches."""
    draw = random.Random(seed)
    left, held = deque(items), [deque[int]() for _ in range(pool.actors)]
    events = [(draw.random() * pool.seconds, actor) for actor in range(pool.actors)]
    heapq.heapify(events)
    there: list[int] = []
    ended = [0.0] * pool.actors

    def begin(actor: int, now: float) -> None:
        took = pool.takes(held[actor][0]) * draw.uniform(1 - JITTER, 1 + JITTER)
        heapq.heappush(events, (now + took, actor))

    while events:
        now, actor = heapq.heappop(events)
        ended[actor] = now
        if held[actor]:
            held[actor].popleft()
            if held[actor]:
                begin(actor, now)
        else:
            there.append(actor)
        while left and len(held[other := min(there, key=lambda a: len(held[a]))]) < IN_FLIGHT:
            held[other].append(left.popleft())
            if len(held[other]) == 1:
                begin(other, now)
    last = max(ended)
    return End(last, sum(last - end for end in ended) / pool.actors)


def table(pool: Pool, rows: Sequence[int]) -> str:
    """Markdown: seconds of a run, and how long an actor is idle at its end, without and with sharing."""
    lines = [
        "| images | items of one size: s, idle s, idle | the last shared out: s, idle s, idle | saved |",
        "|---|---|---|---|",
    ]
    for count in rows:
        alike, shared = (_mean(sizes(count, pool.batch, actors), pool) for actors in (1, pool.actors))
        saved = 1 - shared.seconds / alike.seconds
        lines.append(f"| {count:,} | {alike} | {shared} | {saved:.1%} |")
    return "\n".join(lines)


def _mean(items: Sequence[int], pool: Pool) -> End:
    ends = [simulate(items, pool, seed) for seed in range(SEEDS)]
    return End(sum(end.seconds for end in ends) / SEEDS, sum(end.idle for end in ends) / SEEDS)
