"""kill -9 in the middle of a run, on the smallest machine there is, and the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.small_jobs import committed, settings, slowed, write_shards

ROOT = Path(__file__).resolve().parents[3]
TWO_CPUS = """
import json, sys
import ray
from pipeline.config import load_config
from pipeline.run.run import run
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
sys.exit(run(load_config(json.loads(sys.argv[1]))).exit_status)
"""


def start(job: dict) -> subprocess.Popen:
    import json

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TWO_CPUS, json.dumps(job)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow  # kills of drivers are made by `make chaos`, and on a store by every `make test`
def test_a_killed_run_goes_on_and_ends_with_every_key_once(tmp_path: Path) -> None:
    """Two actors and all their reads on two CPUs: neither the first run nor the resumed one starves."""
    job = settings(
        write_shards(tmp_path / "input", "abc", rows=10),
        tmp_path / "output",
        operator={"name": "linear", "function": "tests.pipeline.small_jobs:slow_identity"},
        workers=2,
    )
    with slowed():
        first = start(job)
        deadline = time.monotonic() + 240
        while len(committed(tmp_path / "output")) < 6:
            assert first.poll() is None and time.monotonic() < deadline, first.stderr and first.stderr.read()
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
    time.sleep(1)  # orphaned actors may still commit what they had in work
    before = committed(tmp_path / "output")
    assert 6 <= len(before) < 30, "killed too late to show anything"

    second = start(job)
    _, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    after = committed(tmp_path / "output")
    assert len(after) == 30
    assert {key: after[key] for key in before} == before, "what was committed was restored again"
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [
        "metrics.parquet",
        "progress.json",
        "restored",
        "run.json",
        "summary.json",
        "usage.json",
    ]
