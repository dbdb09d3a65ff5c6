"""Drivers of one output: the second is refused, and SIGTERM stops the first with what it committed kept."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import yaml

from jobs.console import Exit
from pipeline.config import load_config
from pipeline.run.run import RunError, run
from tests.pipeline.small_jobs import committed, settings, slowed, write_shards

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[3]


def start(job: Path) -> subprocess.Popen[str]:
    """`p2l restore` on the cluster of these tests."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token"}
    environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "jobs.restore", str(job)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("ray_cluster")
def test_a_second_driver_is_refused_and_sigterm_stops_the_first_with_its_commits_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    slow = {"name": "linear", "function": "tests.pipeline.small_jobs:slow_identity"}
    job = settings(write_shards(tmp_path / "input", "a", rows=200), output, operator=slow)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))

    with slowed():
        first = start(tmp_path / "job.yaml")
        deadline = time.monotonic() + 240
        while not committed(output):
            assert first.poll() is None and time.monotonic() < deadline, first.stderr and first.stderr.read()
            time.sleep(0.2)
        with pytest.raises(RunError) as refused:
            run(load_config(job))
        for part in (socket.gethostname(), f"process {first.pid}", "--take-over"):
            assert part in str(refused.value)
        (waits,) = capsys.readouterr().err.splitlines()
        assert "taken over unless it changes within" in waits

        first.send_signal(signal.SIGTERM)
        _, errors = first.communicate(timeout=240)
    assert first.returncode == Exit.INCOMPLETE
    assert "error stopped by SIGTERM; what is committed stays" in errors and "Traceback" not in errors
    before = committed(output)
    assert 0 < len(before) < 200 and not (output / "lease.json").exists()

    assert run(load_config(job | {"commit_every": 50})).ok == 200
    after = committed(output)
    assert {key: after[key] for key in before} == before
