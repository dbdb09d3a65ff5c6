"""How many actors a job takes of a cluster, and where its output may lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.config import ConfigError
from pipeline.run import pool
from tests.pipeline.small_jobs import job


@pytest.mark.parametrize(
    ("workers", "device", "expected"),
    [
        ("auto", "cpu", (2, 2, 2)),
        ("auto", "cuda", (1, 1, None)),  # none yet: one is asked for, and each that joins is taken
        (3, "cpu", (3, 3, 3)),
        ((1, 8), "cpu", (1, 2, 8)),
        ((4, 8), "cuda", (4, 8, 8)),  # none waits for another to be there before it is asked for
    ],
)
def test_the_pool_begins_with_what_is_there_within_its_bounds(
    workers: Any,
    device: str,
    expected: tuple[int, int, int | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    config = job(tmp_path, tmp_path / "output", workers=workers)
    assert pool.pool_size(config, device) == expected
    sizes = pool.pool(config, device)
    assert (sizes.min_size, sizes.initial_size, sizes.max_size) == (
        *expected[:2],
        expected[2] or float("inf"),
    )


@pytest.mark.usefixtures("ray_cluster")
def test_a_cpu_chosen_for_want_of_a_gpu_is_said_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(tmp_path, tmp_path / "output", model="tiny", method={"name": "ldps", "preset": None})
    assert not [note for note in pool.notes(config, "cpu") if "GPU" in note]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert [note for note in pool.notes(config, "cpu") if "set model.device=cuda" in note]


def test_an_output_among_what_ray_unpacked_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: a URL, or an absolute path"):
        pool.refuse_vanishing_output("/tmp/ray/s/runtime_resources/working_dir_files/_ray_pkg_1/runs/sr4")
    pool.refuse_vanishing_output("gs://bucket/runs/sr4")
    pool.refuse_vanishing_output("/shared/runs/sr4")
