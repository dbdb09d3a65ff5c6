"""A Ray cluster of several nodes on this machine's loopback, whose nodes can be lost as real ones are."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

CPUS = 2  # of each worker node, as bookkeeping
START_SECONDS = 120.0
# A lost node is noticed within seconds instead of half a minute, actors are spread over the nodes, and a node
# that gets SIGTERM announces its end so many seconds before it, as a preempted one does.
GRACE_SECONDS = 3
SILENT_SECONDS = 30.0  # that the processes of a silent node are there, well after Ray has given it up
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_scheduler_spread_threshold": "0.0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(GRACE_SECONDS),
}


class Loopback:
    """A head without CPUs and `nodes` workers, each a `ray start` with a process tree of its own.

    environment: what a driver needs to join; `extra` in it is what the workers see, too.
    """

    def __init__(self, nodes: int, extra: dict[str, str]) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets' paths must be
        self._port = _free_port()
        self._count = nodes
        self.address = f"127.0.0.1:{self._port}"
        own = {"RAY_ADDRESS": self.address, "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.environment = os.environ | RAY_SETTINGS | own | extra
        self._head: subprocess.Popen[bytes] | None = None
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._silent: list[tuple[float, subprocess.Popen[bytes], list[psutil.Process]]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Starts all nodes; returns when the head answers and the workers are on their way."""
        self._head = self._ray("--head", f"--port={self._port}", "--num-cpus=0", "--include-dashboard=false")
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self._port):
            if self._head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no Ray head on {self.address} within {START_SECONDS:.0f} s")
            time.sleep(0.1)
        self.replace_dead()

    def add(self) -> None:
        self.nodes.append(self._ray(f"--address={self.address}", f"--num-cpus={CPUS}"))

    def replace_dead(self) -> None:
        """Another node for each worker node that ended by itself, as an autoscaler starts one.

        Buries those that fell silent long enough ago.
        """
        for silent in [silent for silent in self._silent if time.monotonic() > silent[0]]:
            self._silent.remove(silent)
            kill_processes(silent[2])
            silent[1].wait()
        alive = [node for node in self.nodes if node.poll() is None]
        for node in set(self.nodes) - set(alive):
            kill_tree(node)
        self.nodes = alive
        while len(self.nodes) < self._count:
            self.add()

    def kill(self) -> None:
        """SIGKILL to every process of every node."""
        for silent in self._silent:
            kill_processes(silent[2])
            silent[1].wait()
        self._silent = []
        for node in [*self.nodes, self._head]:
            if node is not None:
                kill_tree(node)
        self.nodes, self._head = [], None

    def kill_node(self, index: int) -> None:
        """SIGKILL to every process of a worker node."""
        kill_tree(self.nodes.pop(index))

    def preempt(self, index: int) -> None:
        """SIGTERM to a worker node, and SIGKILL to what is left of it when the grace is over."""
        node = self.nodes.pop(index)
        family = tree(node.pid)
        node.terminate()
        with suppress(subprocess.TimeoutExpired):
            node.wait(GRACE_SECONDS)
        kill_processes(family)
        node.wait()

    def silence(self, index: int) -> None:
        """Stops every process of a worker node, so that its connections stay open and nothing answers."""
        node = self.nodes.pop(index)
        family = tree(node.pid)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        self._silent.append((time.monotonic() + SILENT_SECONDS, node, family))

    def processes(self) -> list[psutil.Process]:
        """Those of all worker nodes."""
        return [process for node in self.nodes for process in tree(node.pid)]

    def _ray(self, *options: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *options]
        command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", "--object-store-memory=100000000"]
        if "--head" in options:
            command += [f"--temp-dir={self._folder}"]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; [] when it is gone."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all below it; returns when it is gone."""
    kill_processes(tree(process.pid))
    process.wait()


def kill_processes(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL to those that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
