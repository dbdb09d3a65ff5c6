"""A job wholly on an object store, its file included: cut to shards, restored, killed, resumed, checked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from typer.testing import CliRunner

from jobs.cli import app
from jobs.console import Exit
from jobs.faults.chaos import WHOLE
from pipeline.cluster.session import log_folder
from pipeline.output.folder import RUN, OutputFolder
from pipeline.stores import storage, storage_options
from tests.pipeline.small_jobs import SIDE, committed, png, slowed
from tests.stores import SECRET, Store, make_bucket, proxied

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[3]
ROWS = 24


@pytest.fixture
def bucket(store: Store, request: pytest.FixtureRequest) -> Iterator[str]:
    storage_options.configure(store.options)
    yield make_bucket(store, f"job-{abs(hash(request.node.name))}")
    storage_options.configure({})


def command(*arguments: str, status: int = Exit.OK) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return str(result.output)


def start(job: str, store: Store) -> subprocess.Popen:
    """`p2l restore` on the cluster of these tests."""
    cluster = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "token"}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "restore", job],
        cwd=ROOT,
        env=os.environ | store.environment | cluster | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def command_lines() -> str:
    """Of all processes of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return "\n".join(lines)


def everything(bucket: str) -> bytes:
    """The bytes of all objects."""
    found = b""
    for name in storage.find(bucket):
        with storage.open_read(storage.join(bucket, name)) as file:
            found += file.read()
    return found


@pytest.mark.parametrize("store", ["s3", pytest.param("gs", marks=pytest.mark.slow)], indirect=True)
def test_a_job_wholly_on_a_store(store: Store, bucket: str, ray_cluster: None) -> None:
    for number in range(ROWS):
        with storage.write_whole(f"{bucket}/photographs/{number:02d}.png") as file:
            file.write(png(number))
    command("shard", f"{bucket}/photographs", f"{bucket}/shards", "--rows", "8")
    job: dict[str, Any] = {
        "input": f"{bucket}/shards/*.parquet",
        "output": f"{bucket}/run",
        "size": SIDE,
        "operator": {"name": "linear", "function": "tests.pipeline.small_jobs:slow_identity"},
        "method": "adjoint",
        "workers": 1,
        "commit_every": 2,
        "storage": store.options,
    }
    storage.write_text(f"{bucket}/job.yaml", json.dumps(job))

    with slowed():
        first = start(f"{bucket}/job.yaml", store)
        deadline = time.monotonic() + 300
        while len(committed(f"{bucket}/run")) < 4:
            assert first.poll() is None and time.monotonic() < deadline, first.communicate(timeout=5)
            time.sleep(0.5)  # the store is to serve the run, too
        assert SECRET not in command_lines()
        first.send_signal(signal.SIGKILL)
        first.wait()
    time.sleep(2)  # orphaned actors may still commit what they had in work
    before = committed(f"{bucket}/run")
    assert 4 <= len(before) < ROWS, "killed too late to show anything"

    told = command("restore", f"{bucket}/job.yaml")
    assert f"{ROWS} of {ROWS} rows restored" in told
    after = committed(f"{bucket}/run")
    assert len(after) == ROWS
    assert {key: after[key] for key in before} == before, "what was committed was restored again"
    names = Counter(name.split("/")[0] for name in storage.find(f"{bucket}/run"))
    assert names == dict.fromkeys(WHOLE, 1) | {"restored": 3}

    command("report", f"{bucket}/run")
    command("verify", f"{bucket}/run")
    compared = command("compare", f"{bucket}/run", f"{bucket}/run")
    assert f"{bucket}/run against {bucket}/run" in " ".join(compared.split())  # of any width
    assert OutputFolder(f"{bucket}/run").json(RUN)["config"]["storage"] == store.options
    assert SECRET not in told and SECRET.encode() not in everything(bucket)
    logs = [path for path in log_folder().iterdir() if path.suffix in (".log", ".out", ".err")]
    assert logs and not [path for path in logs if SECRET.encode() in path.read_bytes()]


def test_weights_come_from_a_store_through_the_cache(
    store: Store, bucket: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.config import ModelConfig
    from pipeline.worker.models import load

    monkeypatch.setenv("P2L_CACHE", str(tmp_path / "cache"))
    files = {
        str(path.relative_to(model_folder)): path.read_bytes()
        for path in model_folder.rglob("*")
        if path.is_file()
    }
    for name, content in files.items():
        with storage.write_whole(f"{bucket}/model/{name}") as file:
            file.write(content)
    config = ModelConfig.model_validate({"id": f"{bucket}/model", "device": "cpu"})
    with proxied(store) as proxy:
        storage_options.configure(proxy.store.options)
        proxy.planned.extend([("list", "HTTP 503"), ("read", "cut short"), ("read", "HTTP 500")])
        assert load(config).name == f"{bucket}/model"
        assert not proxy.planned
        (copy,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
        fetched = {
            str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()
        }
        assert fetched and fetched.items() <= files.items()
        proxy.calls.clear()
        load(config)
        assert proxy.calls["list"] and not proxy.calls["read"]
