"""How many actors a job takes of a cluster, and where its output may lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from pipeline.config import ConfigError
from pipeline.run import pool
from pipeline.run.run import run
from tests.pipeline.small_jobs import job, write_shards


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
@pytest.mark.parametrize(
    ("device", "machines", "share", "threads"),
    [
        ("cpu", {"a": {"CPU": 16.0}}, 8, 2),
        ("cpu", {"head": {}, **{name: {"CPU": 16.0} for name in "abcd"}}, 8, 2),
        ("cuda", {"a": {"CPU": 3.0, "GPU": 4.0}, **{name: {"CPU": 3.0, "GPU": 1.0} for name in "bcd"}}, 1, 4),
    ],
)
def test_actors_share_the_cores_of_their_machine_and_not_of_the_cluster(
    device: str,
    machines: dict[str, dict[str, float]],
    share: int,
    threads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each actor counts those that are where it is, which here are 16 for all."""
    here = ray.get_runtime_context().get_node_id()  # as of the first machine
    nodes = [
        {"Alive": True, "NodeID": here if name == "a" else name, "NodeManagerAddress": name, "Resources": has}
        for name, has in machines.items()
    ]
    total = {name: sum(has.get(name, 0) for has in machines.values()) for name in ("CPU", "GPU")}
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    monkeypatch.delenv("OMP_NUM_THREADS")
    model = {"id": "tiny", "device": device}
    config = job(tmp_path, tmp_path / "output", model=model, method="ldps", workers="auto")
    options = pool.actor_options(config)
    assert (options.share, options.threads) == (share, None)
    given: list[int] = []
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("torch.set_num_threads", given.append)
    options.limit_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    pool.actor_options(config).limit_threads()
    assert given == [threads, 3]
    for variables, wanted in ({}, None), ({"env_vars": {"OMP_NUM_THREADS": "5"}}, 5):
        # Of a submitted job, whose driver Ray gives one of its own.
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": variables}))
        assert pool.actor_options(config).threads == wanted


@pytest.mark.usefixtures("ray_cluster")
def test_a_cpu_chosen_for_want_of_a_gpu_is_said_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(tmp_path, tmp_path / "output", model="tiny", method={"name": "ldps", "preset": None})
    assert not [note for note in pool.notes(config, "cpu") if "GPU" in note]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert [note for note in pool.notes(config, "cpu") if "set model.device=cuda" in note]


@pytest.mark.parametrize(
    ("device", "steps", "expected"), [("cpu", 20, 4), ("cpu", 1000, 4), ("cuda", 20, 32), ("cuda", 1000, 8)]
)
def test_a_gpu_is_offered_more_images_together_the_less_is_lost_with_it(
    device: str, steps: int, expected: int, tmp_path: Path
) -> None:
    config = job(
        tmp_path,
        tmp_path / "out",
        model="tiny",
        method={"name": "p2l", "preset": "tiny", "steps": steps},
        commit_every="auto",
    )
    assert pool.batch_size(config, device) == pool.commit_every(config, device) == expected
    given = config.model_copy(update={"batch_size": 5})
    assert pool.batch_size(given, device) == 5


def test_a_job_that_could_not_compile_here_ends_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"id": "tiny", "compile": True}
    method = {"name": "ldps", "preset": None}
    config = job(write_shards(tmp_path / "in"), tmp_path / "out", model=model, method=method)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigError, match="model.compile: got true, but this machine has no no-such-compiler"
    ):
        run(config)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    pool.refuse_uncompiled(config)  # other machines may have one


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_gpu_that_is_not_here_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, method = {"id": "tiny", "device": "cuda"}, {"name": "ldps", "preset": None}
    config = job(write_shards(tmp_path / "in"), tmp_path / "out", model=model, method=method)
    with pytest.raises(ConfigError, match="model.device: got 'cuda', which is not to be had here"):
        run(config)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    pool.refuse_missing_device(config)  # other machines may have one


def test_an_output_among_what_ray_unpacked_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: a URL, or an absolute path"):
        pool.refuse_vanishing_output("/tmp/ray/s/runtime_resources/working_dir_files/_ray_pkg_1/runs/sr4")
    pool.refuse_vanishing_output("gs://bucket/runs/sr4")
    pool.refuse_vanishing_output("/shared/runs/sr4")
