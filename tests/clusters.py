"""A Ray cluster of a test's own, started as a person starts one and killed with all that belongs to it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.util import get_node_ip_address

ROOT = Path(__file__).resolve().parents[1]
STARTS_WITHIN = 120  # seconds; the machine may be busy


@dataclass(frozen=True)
class Head:
    """address: of the cluster. url: of its dashboard. environment: for commands that may use both."""

    address: str
    url: str
    token: str
    environment: Mapping[str, str]

    def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """Status and JSON of an answer of the dashboard, asked with the token or another."""
        request = urllib.request.Request(self.url + path)
        if token != "":
            request.add_header("Authorization", f"Bearer {token or self.token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, None


@contextlib.contextmanager
def ray_head(cpus: int, *, node_types: Mapping[str, Any] | None = None, **environment: str) -> Iterator[Head]:
    """`ray start --head` with token authentication, on ports and in a folder of its own.

    node_types: what Ray's autoscaler may start, as nodes on this machine. environment: of its processes.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Ray's sockets have paths of 107 bytes
    gcs, dashboard, agent, client = _free_ports(4)
    address = f"{get_node_ip_address()}:{gcs}"
    token = secrets.token_hex(16)
    (folder / "token").touch(0o600)
    (folder / "token").write_text(token)
    command = [
        *("ray", "start", "--head", "--block", f"--num-cpus={cpus}", f"--temp-dir={folder}"),
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0"),
        f"--object-store-memory={200 * 2**20}",
    ]
    shared = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
    }
    if node_types:
        (folder / "autoscaler.json").write_text(json.dumps(_autoscaler(address, cpus, node_types)))
        command.append(f"--autoscaling-config={folder / 'autoscaler.json'}")
        environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=shared | environment, stdout=log, stderr=log)
    head = Head(
        address,
        f"http://127.0.0.1:{dashboard}",
        token,
        shared | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"},
    )
    try:
        _wait(head, process, folder / "head.log")
        yield head
    finally:
        _kill_all_of(folder, process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("", 0))
        return [held.getsockname()[1] for held in sockets]


def _autoscaler(address: str, cpus: int, node_types: Mapping[str, Any]) -> dict[str, Any]:
    """A launcher's file for Ray's provider of nodes on this machine; idle nodes go after 3 seconds."""
    head = {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    commands = ("head_setup", "head_start_ray", "initialization", "setup", "worker_setup", "worker_start_ray")
    return {
        "cluster_name": "test",
        "max_workers": 4,
        "idle_timeout_minutes": 0.05,
        "upscaling_speed": 100,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": head,
            **{name: {"node_config": {}, "min_workers": 0} | kind for name, kind in node_types.items()},
        },
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{f"{name}_commands": [] for name in commands},
    }


def _wait(head: Head, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if head.get("/api/version")[0] == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the cluster did not start: {log.read_text()}")


def _kill_all_of(folder: Path, process: subprocess.Popen) -> None:
    """Kills the head and every process whose command line names its folder, with the children of each."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    for other in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [other, *other.children(recursive=True)]
            if any(str(folder) in part for part in other.info["cmdline"] or ()):
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
