"""The RayJob's scripts: run.sh on a real Ray with a stand-in for p2l, and the wait for the pod's account."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.clusters import Head, ray_head
from tests.infra.documents import KUBERAY, of_kind, overlay

pytestmark = pytest.mark.e2e

RUN = KUBERAY / "base/run.sh"
LONGEST = 400  # seconds; the machine may be busy
STAND_IN = '#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\nexit {status}\n'


def folder(path: Path, status: int, arguments: str = "") -> dict[str, str]:
    """What the ConfigMap puts beside run.sh, and an environment in which p2l ends with a status."""
    shutil.copy(RUN, path)
    data = of_kind(overlay("overlays/spot"), "ConfigMap")["data"]
    (path / "workers").write_text(data["workers"])
    (path / "arguments").write_text(arguments or data["arguments"])
    (path / "p2l").write_text(STAND_IN.format(status=status))
    (path / "p2l").chmod(0o755)
    return {
        "POD_LOG": str(path / "pod.log"),
        "PATH": os.pathsep.join([str(path), sysconfig.get_path("scripts"), os.environ["PATH"]]),
    }


@pytest.mark.parametrize("status", [0, 1, 137])
def test_the_script_ends_as_p2l_does_and_tells_the_pods_log_what_it_said(status: int, tmp_path: Path) -> None:
    environment = folder(tmp_path, status, "--retry-errors --shards a*")
    done = subprocess.run(
        ["bash", tmp_path / "run.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    workers = (tmp_path / "workers").read_text()
    said = [
        "restore",
        f"{tmp_path}/job.yaml",
        "--set",
        f"workers=[1, {workers}]",
        "--retry-errors",
        "--shards",
        "a*",
    ]
    assert done.returncode == status
    assert done.stdout.splitlines() == [f"<{word}>" for word in said]
    assert (tmp_path / "pod.log").read_text() == done.stdout


def test_the_script_ends_the_job_by_the_name_that_the_rayjob_gives_it() -> None:
    job = of_kind(overlay("overlays/spot"), "RayJob")["spec"]
    container = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {"name": "JOB", "value": job["jobId"]} in container["env"]
    assert job["entrypoint"] == "bash /etc/p2l/run.sh"


def test_only_what_another_cluster_could_mend_fails_and_only_a_whole_output_succeeds(tmp_path: Path) -> None:
    """KubeRay starts another cluster for a job that FAILED, and for no other."""
    ends = {0: "SUCCEEDED", 3: "STOPPED", 4: "STOPPED", 1: "FAILED"}
    with ray_head(1) as head:
        for status in ends:
            place = tmp_path / str(status)
            place.mkdir()
            words = [
                f"{name}={value}"
                for name, value in (folder(place, status) | {"JOB": f"p2l-{status}"}).items()
            ]
            submit(head, f"p2l-{status}", shlex.join(["env", *words, "bash", f"{place}/run.sh"]))
        deadline = time.monotonic() + LONGEST
        while (found := {job["submission_id"]: job["status"] for job in head.get("/api/jobs/")[1]}) and (
            {"PENDING", "RUNNING"} & set(found.values())
        ):
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
    assert found == {f"p2l-{status}": end for status, end in ends.items()}
    said = {status: (tmp_path / str(status) / "pod.log").read_text() for status in ends}
    assert "status 3: every row is done, and some are errors" in said[3]
    assert "status 4: a limit of the job is reached" in said[4]
    assert "p2l ended" not in said[0] + said[1]


def submit(head: Head, name: str, entrypoint: str) -> None:
    """As the operator does."""
    request = urllib.request.Request(
        f"{head.url}/api/jobs/",
        json.dumps({"entrypoint": entrypoint, "submission_id": name}).encode(),
        {"Authorization": f"Bearer {head.token}", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=60).close()


class _LateServer(BaseHTTPRequestHandler):
    """GKE's metadata server in the first seconds of a pod; it refuses who lacks the header."""

    answers: list[int]

    def do_GET(self) -> None:
        asks_well = self.headers.get("Metadata-Flavor") == "Google" and self.path.endswith("/default/token")
        self.send_response(self.answers.pop(0) if asks_well else 403)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_pod_waits_until_the_metadata_server_gives_a_token() -> None:
    _LateServer.answers = [500, 500, 200]
    with HTTPServer(("127.0.0.1", 0), _LateServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [sys.executable, KUBERAY / "base/wait_for_identity.py"],
            env={"GCE_METADATA_HOST": f"127.0.0.1:{server.server_port}"},
            timeout=LONGEST,
        )
        server.shutdown()
    assert done.returncode == 0 and _LateServer.answers == []
