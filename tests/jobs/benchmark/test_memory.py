"""The table of memory by size and method."""

from __future__ import annotations

import pytest

from jobs.benchmark import memory


def test_a_size_and_method_has_its_calls_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: memory.METHODS[name] for name in ("p2l K=3", "ldps, patches")}
    monkeypatch.setattr(memory, "METHODS", few)
    monkeypatch.setattr(memory, "GIB", 2**20)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in memory.counted("tiny", [(80, 96)])
    ][2:]
    assert [row[:3] for row in rows] == [
        ["80x96", "p2l K=3", "4"],
        ["80x96", "ldps, patches", "4"],
    ]
    for row in rows:
        plain, least, plain_half, least_half = map(float, row[3:])
        assert plain / 4 < least < plain / 2
        assert (plain_half, least_half) == pytest.approx((plain / 2, least / 2), abs=0.051)
