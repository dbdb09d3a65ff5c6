"""A user's own pipeline.py and jobs.py in the current folder stay theirs: in commands and in workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from tests.clusters import ROOT
from tests.pipeline.small_jobs import settings, write_shards

pytestmark = pytest.mark.e2e

LONGEST = 400  # seconds; the machine may be busy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with files of those names, and an operator of their own."""
    (tmp_path / "pipeline.py").write_text("raise ImportError('the user\\'s own')\n")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("raise ImportError('the user\\'s own')\n")
    (tmp_path / "own.py").write_text("def halved(images):\n    return images / 2\n")
    write_shards(tmp_path / "in", "a", 2)
    job = settings(Path("in"), Path("out"), operator={"name": "linear", "function": "own:halved"}, noise=0.0)
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    return tmp_path


def run(module: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"} | environment,
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_runs_beside_the_users_files_of_our_names(folder: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    done = run("p2l_first", "restore", "job.yaml", folder=folder, RAY_ADDRESS=address, RAY_AUTH_MODE="token")
    assert done.returncode == 0, done.stdout + done.stderr
    (shard,) = (folder / "out" / "restored").iterdir()
    assert pq.read_table(shard, columns=["status"])["status"].to_pylist() == ["ok", "ok"]


def test_a_command_alone_runs_beside_a_pipeline_of_the_user(folder: Path) -> None:
    (folder / "jobs" / "__init__.py").unlink()
    done = run("jobs.restore", "none.yaml", folder=folder)
    assert done.returncode == 2 and "none.yaml: there is no such file" in done.stderr, done.stderr
