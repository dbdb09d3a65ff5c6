"""A run on a cluster whose nodes come when there is work and go when there is none."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.clusters import ROOT, Head, ray_head
from tests.pipeline.small_jobs import settings, write_shards

pytestmark = pytest.mark.e2e

ROWS = 80
LONGEST = 400  # seconds; the machine may be busy
OPERATOR = """
import pathlib, time
import ray

SEEN = pathlib.Path({seen!r})

def slow(images):
    "Takes its time until a second node has joined in."
    (SEEN / ray.get_runtime_context().get_node_id()).touch()
    time.sleep(0.5 if len(list(SEEN.iterdir())) < 2 else 0.01)
    return images * 1.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoscaling")
    (folder / "seen").mkdir()
    (folder / "own.py").write_text(OPERATOR.format(seen=str(folder / "seen")))
    write_shards(folder / "input", "ab", ROWS // 2)
    return folder


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[Head]:
    """One CPU; Ray may start a node with two more, and one with a GPU that is none."""
    kinds = {
        "cpu": {"resources": {"CPU": 2}, "max_workers": 1},
        "gpu": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 1},
    }
    one_for_ray = {"CUDA_VISIBLE_DEVICES": "none"}  # a name that CUDA finds no GPU by, were there one
    with ray_head(1, node_types=kinds, PYTHONPATH=f"{ROOT}:{folder}", **one_for_ray) as head:
        yield head


def start(head: Head, job: dict, folder: Path) -> subprocess.Popen:
    (folder / "job.yaml").write_text(json.dumps(job))
    environment = {
        "RAY_ADDRESS": head.address,
        "PYTHONPATH": f"{ROOT}:{folder}",
        "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "1",
    }
    return subprocess.Popen(
        ["p2l", "restore", str(folder / "job.yaml")],
        env={**head.environment, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def nodes(head: Head) -> list[dict]:
    """What each living node has."""
    found = head.get("/api/v0/nodes")[1]["data"]["result"]["result"]
    return [node["resources_total"] for node in found if node["state"] == "ALIVE"]


def wait_for_one_node(head: Head) -> None:
    deadline = time.monotonic() + LONGEST
    while len(nodes(head)) > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(nodes(head)) == 1


def test_actors_follow_the_nodes_and_no_image_is_lost_or_repeated(head: Head, folder: Path) -> None:
    output = folder / "output"
    operator = {"name": "linear", "function": "own:slow"}
    run = start(head, settings(folder / "input", output, operator=operator, workers=[1, 3]), folder)
    most = 0
    while run.poll() is None:
        most = max(most, len(nodes(head)))
        time.sleep(0.5)
    assert run.stderr
    told = run.stderr.read()
    assert run.returncode == 0, told
    assert "1 actor on cpu to begin with; 1 to 3 as the cluster allows" in told
    assert most >= 2 and len(list((folder / "seen").iterdir())) >= 2, "no actor worked on a second node"
    keys = [pq.read_table(file, columns=["key"])["key"].to_pylist() for file in output.glob("restored/*")]
    expected = sorted(f"{name}-{row}" for name in "ab" for row in range(ROWS // 2))
    assert sorted(chain.from_iterable(keys)) == expected
    assert json.loads((output / "progress.json").read_text())["done"] == ROWS, "a commit was made twice"
    wait_for_one_node(head)


@pytest.mark.slow
def test_demanding_cuda_brings_a_gpu_node_to_a_cluster_that_has_none(head: Head, folder: Path) -> None:
    """`auto` asks for one GPU as long as there is none; what the made-up one cannot do is said in the end."""
    assert not any("GPU" in node for node in nodes(head))
    job = settings(
        folder / "input", folder / "gpu", method={"name": "p2l", "preset": "tiny", "steps": 2}, size=64
    )
    run = start(head, job | {"model": {"id": "tiny", "device": "cuda"}, "workers": "auto"}, folder)
    came = False
    while run.poll() is None:
        came = came or any("GPU" in node for node in nodes(head))
        time.sleep(0.5)
    assert run.stderr
    told = run.stderr.read()
    assert came, told
    assert "1 actor on cuda to begin with; one more for each GPU that joins" in told
    assert run.returncode == 1 and "device: 'cuda' is not to be had here" in told
