"""A Ray cluster of a test's own, started as a person starts one and killed with all that belongs to it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.faults.loopback import Loopback, free_ports

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
    """`ray start --head` with token authentication and a dashboard, on ports and in a folder of its own.

    node_types: what Ray's autoscaler may start, as nodes on this machine. environment: of its processes.
    """
    dashboard, agent, client = free_ports(3)
    url = f"http://127.0.0.1:{dashboard}"
    options = [
        *(f"--num-cpus={cpus}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0", "--num-gpus=0"),
    ]
    shared = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_API_SERVER_ADDRESS": url,
    }
    cluster = Loopback(0, shared | environment, options)
    del cluster.environment["RAY_ADDRESS"]  # `ray job submit` would ask there, and not the dashboard
    if node_types:
        file = cluster.folder / "autoscaler.json"
        file.write_text(json.dumps(_autoscaler(cluster.address, cpus, node_types)))
        options.append(f"--autoscaling-config={file}")
        cluster.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with cluster.running():
        head = Head(cluster.address, url, cluster.token, cluster.environment | shared)
        _wait(head)
        yield head


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


def _wait(head: Head) -> None:
    """Until the dashboard answers."""
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        with contextlib.suppress(OSError):
            if head.get("/api/version")[0] == 200:
                return
        assert time.monotonic() < deadline, f"the dashboard of {head.address} did not start"
        time.sleep(0.2)
