"""`ray job submit` as docs/clusters.md says it, on a real cluster with token authentication."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clusters import ROOT, Head, ray_head
from tests.pipeline.small_jobs import committed, settings, slowed, write_shards

pytestmark = pytest.mark.e2e

ROWS = 28
LONGEST = 400  # seconds; the machine may be busy
OPERATOR = """
import pathlib, time


def slow(images):
    time.sleep(0.5 if pathlib.Path({slowed!r}).exists() else 0.02)
    return images * 1.0
"""
PAGE = (ROOT / "docs" / "clusters.md").read_text()


def commands(first_words: str) -> list[str]:
    """The page's commands that begin so, the bucket in them named {bucket}."""
    text = "\n".join(re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    lines = text.replace("\\\n", " ").replace("gs://bucket", "{bucket}").splitlines()
    return [line for line in lines if line.startswith(first_words)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(4, PIP_NO_DEPS="1", PIP_NO_INDEX="1") as head:
        yield head


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, wheel_file: Path) -> Path:
    """A user's folder: job.yaml, its own operator, runtime_env.yaml as on the page, and the built wheel."""
    folder = tmp_path_factory.mktemp("user")
    write_shards(folder / "input", "ab", ROWS // 2)
    job = settings(Path("input"), Path("output"), operator={"name": "linear", "function": "own:slow"})
    (folder / "job.yaml").write_text(json.dumps(job))
    (folder / "own.py").write_text(OPERATOR.format(slowed=os.environ["P2L_TEST_SLOWED"]))
    (folder / "pipeline.py").write_text("raise ImportError('the user has a file of this name')\n")
    (environment,) = re.findall(r"^# (runtime_env\.yaml\n.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (folder / "runtime_env.yaml").write_text(environment.partition("\n")[2])
    (folder / "dist").mkdir()
    (folder / "dist" / wheel_file.name).write_bytes(wheel_file.read_bytes())
    return folder


@pytest.fixture
def command(head: Head, folder: Path) -> Callable[[str], subprocess.CompletedProcess]:
    """Runs one of the page's commands in the user's folder."""

    def run(text: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            shlex.split(text.format(bucket=folder / "bucket")),
            cwd=folder,
            env=head.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
        )

    return run


def told(output: Path) -> dict:
    return json.loads((output / "progress.json").read_text())


def test_the_jobs_api_answers_to_the_token_alone(head: Head) -> None:
    assert head.get("/api/jobs/", token="")[0] == 401
    assert head.get("/api/jobs/", token="0" * 32)[0] == 403
    assert head.get("/api/jobs/") == (200, [])


def test_a_submitted_job_is_stopped_and_goes_on_when_submitted_again(
    head: Head, folder: Path, command: Callable[[str], subprocess.CompletedProcess]
) -> None:
    output = folder / "bucket" / "runs" / "sr4"
    first, second = commands("ray job submit")
    with slowed():
        done = command(first)
        assert done.returncode == 0, done.stdout
        deadline = time.monotonic() + LONGEST
        while len(committed(output)) < 4:
            assert time.monotonic() < deadline, command("ray job logs sr4-1").stdout
            time.sleep(0.2)
        assert head.get("/api/jobs/sr4-1")[1]["status"] == "RUNNING"
        assert (told(output)["submission_id"], told(output)["state"]) == ("sr4-1", "running")

        for line in commands("ray job stop"):
            assert command(line).returncode == 0
    assert head.get("/api/jobs/sr4-1")[1]["status"] == "STOPPED"
    time.sleep(1)  # an actor may still commit what it had in work
    before = committed(output)
    assert 4 <= len(before) < ROWS, "stopped too late to show anything"
    assert told(output)["state"] == "stopped" and told(output)["done"] <= len(before)

    done = command(second)
    assert done.returncode == 0, done.stdout
    assert f"{ROWS} of {ROWS} rows restored, 0 errors" in done.stdout, "the job's log"
    after = committed(output)
    assert len(after) == ROWS and {key: after[key] for key in before} == before
    (info,) = [job for job in head.get("/api/jobs/")[1] if job["submission_id"] != "sr4-1"]
    assert (info["status"], info["driver_exit_code"]) == ("SUCCEEDED", 0)
    assert (told(output)["submission_id"], told(output)["state"]) == (info["submission_id"], "complete")
    assert [start["submission_id"] for start in told(output)["earlier"]] == ["sr4-1"]


def test_the_wheels_code_refuses_an_output_in_the_unpacked_working_folder(
    head: Head, command: Callable[[str], subprocess.CompletedProcess]
) -> None:
    shown = "python -c 'import p2l_first; print(p2l_first.__file__)'; p2l restore job.yaml"
    done = command(
        f'ray job submit --submission-id lost --runtime-env runtime_env.yaml -- bash -c "{shown}"',
    )
    assert done.returncode == 1
    assert "/py_modules_files/p2l-" in done.stdout
    assert (
        "in the copy of a working folder that Ray deletes; allowed: a URL, or an absolute path" in done.stdout
    )
    assert head.get("/api/jobs/lost")[1]["driver_exit_code"] == 2
