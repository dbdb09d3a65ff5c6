"""How many images a worker takes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.input.rows import InputRow
from pipeline.worker import micro_batch
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.small_jobs import job, png


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({1: 1.0, 2: 1.03, 4: 1.04, 8: 1.05}, 1),
        ({1: 1.0, 2: 1.5, 4: 1.9, 8: 2.0}, 4),
        ({1: 1.0, 2: 2.0, 4: 1.0}, 2),
        ({1: 0.5}, 1),
    ],
)
def test_as_few_as_are_within_a_twentieth_of_the_best_rate(rates: dict[int, float], chosen: int) -> None:
    assert micro_batch.smallest_fast(rates) == chosen


def test_the_first_steps_of_the_first_images_choose_and_change_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[int, float]] = []

    def chosen(rates: dict[int, float]) -> int:
        measured.append(rates)
        return 2

    monkeypatch.setattr(micro_batch, "smallest_fast", chosen)
    method = {"name": "ldps", "steps": 5}
    config = job(tmp_path, tmp_path / "out", model="tiny", method=method, size=32)
    rows = [InputRow(str(seed), "s", png(seed, side=32)) for seed in range(3)]
    tuned = Restorer(config, ActorOptions("cpu", 4, 1, tune=True))
    found = [tuned(rows), tuned(rows)]
    assert tuned.micro_batch == 2
    (rates,) = measured
    assert list(rates) == [1, 2, 4] and min(rates.values()) > 0
    expected = Restorer(config, ActorOptions("cpu", 2, 1))(rows)
    for restored in found:
        assert [row["image"] for row in restored] == [row["image"] for row in expected]
