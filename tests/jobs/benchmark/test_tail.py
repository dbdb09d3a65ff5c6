"""The last rows of a run are shared out among its actors, and the simulation of what that saves."""

from __future__ import annotations

import pytest

from jobs.benchmark import tail
from jobs.benchmark.tail import Pool, simulate, sizes, table


@pytest.mark.parametrize(
    ("rows", "batch", "actors", "expected"),
    [
        (20, 4, 1, [4, 4, 4, 4, 4]),
        (20, 4, 2, [4, 4, 4, 4, 2, 1, 1]),
        (12, 8, 8, [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]),
        (1002, 500, 2, [500, 251, 126, 63, 31, 16, 8, 4, 1, 1, 1]),  # of two shards, the second of two rows
        (0, 8, 32, []),
    ],
)
def test_what_is_left_is_shared_out_once_it_does_not_fill_all_actors(
    rows: int, batch: int, actors: int, expected: list[int]
) -> None:
    assert sizes(rows, batch, actors) == expected


def test_one_actor_takes_one_item_after_another() -> None:
    pool = Pool(actors=1, batch=2, seconds=100)
    end = simulate([2, 2, 1], pool, seed=0)
    assert end.seconds == pytest.approx(250 + 50, rel=0.25) and end.idle == 0


def test_an_item_in_the_queue_of_one_actor_waits_while_another_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first actor that is there takes both items; with no queue each would take one."""
    pool = Pool(actors=2, batch=1, seconds=100)
    queued = simulate([1, 1], pool, seed=3)
    assert queued.seconds >= 200 * 0.95 and queued.idle >= 40
    monkeypatch.setattr(tail, "IN_FLIGHT", 1)
    alone = simulate([1, 1], pool, seed=3)
    assert alone.seconds < queued.seconds - 10 and alone.idle < queued.idle


def test_sharing_out_saves_time_on_a_pool_of_32() -> None:
    lines = table(Pool(), (200,)).splitlines()
    cells = [cell.replace("%", "").split(",") for cell in lines[2].split("|")[2:4]]
    (alike, *_), (shared, *_) = figures = [[float(figure) for figure in cell] for cell in cells]
    assert shared < 0.9 * alike
    for seconds, idle, share in figures:
        assert share == pytest.approx(100 * idle / seconds, abs=0.2)
