"""The container image: its Dockerfile linted, its context, and what of the build can run without Docker."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2l_engine.priors.networks import compiling
from tests.infra.documents import INFRA, ROOT, VERSION
from tests.infra.image_checks import hadolint_complaints, project_complaints, sources

DOCKERFILE = (INFRA / "image/Dockerfile").read_text()
IGNORED = (INFRA / "image/Dockerfile.dockerignore").read_text()
AGENT_PORT = "52365"  # where the HEALTHCHECK asks


def test_hadolint_finds_nothing() -> None:
    assert hadolint_complaints(DOCKERFILE) == []


def test_the_image_keeps_the_projects_rules() -> None:
    assert project_complaints(DOCKERFILE, VERSION) == []


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ("ARG BASE=python:3.11-slim-bookworm", "ARG BASE=python", "DL3006"),
        (" --no-cache-dir -c /constraints.txt", " -c /constraints.txt", "DL3042"),
        ("WORKDIR /home/ray", "WORKDIR home/ray", "DL3000"),
        ("USER 1000:1000", "USER root", "DL3002"),
        ("RUN hatchling", "RUN sudo hatchling", "DL3004"),
        ("&& rm -rf /var/lib/apt/lists/*", "", "DL3009"),
        ("HEALTHCHECK", "HEALTHCHEK", "unexpected"),
    ],
)
def test_hadolint_names_a_mistake(good: str, bad: str, complaint: str) -> None:
    assert good in DOCKERFILE
    mistaken = DOCKERFILE.replace(good, bad)
    if complaint == "DL3006":
        mistaken = mistaken.replace("${BASE}", "python")
    assert any(complaint in found for found in hadolint_complaints(mistaken))


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ("3.11-slim-bookworm", "latest", "FROM python:latest: allowed"),
        ("3.11-slim-bookworm", "3.12-slim-bookworm", "constraints.txt, 3.11"),
        ("FROM ${BASE}\n", "", "one stage alone"),
        ("USER 1000:1000", "USER ray", "USER: got ['ray']"),
        ("USER 1000:1000", "USER 0", "USER: got ['0']"),
        ("HEALTHCHECK", "# ", "HEALTHCHECK: missing"),
        ("ARG VERSION=0.2.0", "ARG VERSION=0.0.9", "got 0.0.9; the project is"),
        ("-c /constraints.txt ", "", "installs without the locked versions"),
        ("WORKDIR /home/ray", "RUN hf download CompVis/stable-diffusion-v1-4", "in no lock file"),
        ("WORKDIR /home/ray", "ADD https://example.com/weights.tar /weights", "in no lock file"),
    ],
)
def test_a_broken_rule_of_the_project_is_named(good: str, bad: str, complaint: str) -> None:
    assert good in DOCKERFILE
    assert any(complaint in found for found in project_complaints(DOCKERFILE.replace(good, bad), VERSION))


def test_the_image_has_the_compilers_that_a_job_may_ask_for() -> None:
    (packages,) = re.findall(r"apt-get install .*--no-install-recommends (.+) ", DOCKERFILE)
    assert {compiling.CXX[1], compiling.CC[1]} <= set(packages.split())


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    """Docker takes the ignore file beside a Dockerfile before one at the root."""
    everything, *lines = [line for line in IGNORED.splitlines() if line and not line.startswith("#")]
    assert everything == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert allowed == sources(DOCKERFILE)
    assert not [path for path in allowed if not (ROOT / path).exists()]


def test_the_wheel_of_the_image_builds_from_what_the_dockerfile_copies(tmp_path: Path) -> None:
    context = tmp_path / "source"
    for path in sources(DOCKERFILE):
        origin = ROOT / path
        if origin.is_dir():
            shutil.copytree(origin, context / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            context.mkdir(exist_ok=True)
            shutil.copy(origin, context / path)
    (command,) = re.findall(r"^RUN hatchling (build .+)$", DOCKERFILE, re.MULTILINE)
    arguments = [str(tmp_path / "wheel") if part == "/wheel" else part for part in command.split()]
    subprocess.run(
        [sys.executable, "-m", "hatchling", *arguments], cwd=context, check=True, capture_output=True
    )
    (wheel,) = (tmp_path / "wheel").iterdir()
    assert wheel.name.startswith(f"p2l-{VERSION}-")
    weights = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".safetensors")]
    assert weights and all(fnmatch.fnmatch(name, "p2l_engine/tiny/*weights/*") for name in weights)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[int]:
    """A real Ray node that demands a token; the port of its agent."""
    token = tmp_path / "auth_token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, agent, client = _free_ports(4)
    folder = Path("/tmp") / f"p2l-image-{os.getpid()}"  # Ray's sockets need a short path
    ports = f"--port={gcs} --dashboard-port={dashboard} --dashboard-agent-listen-port={agent}".split()
    options = [
        "--num-cpus=0",
        f"--ray-client-server-port={client}",
        f"--temp-dir={folder}",
        "--include-dashboard=true",
    ]
    ray = Path(sys.executable).with_name("ray")
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [ray, "start", "--head", "--block", *ports, *options],
        env=environment,
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    yield agent
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_health_check_tells_a_node_that_is_up_from_one_that_is_not(node: int, tmp_path: Path) -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (.+)$", DOCKERFILE, re.MULTILINE)
    program, *arguments = json.loads(command.replace(AGENT_PORT, str(node)))
    assert program == "python"

    def healthy() -> bool:
        return subprocess.run([sys.executable, *arguments], stderr=subprocess.DEVNULL).returncode == 0

    assert not healthy()  # it has only just been started
    end = time.monotonic() + 120
    while not healthy():
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports
