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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

CPUS = 2  # of each worker node, as bookkeeping
START_SECONDS = 120.0
HEAD = ("--num-cpus=0", "--include-dashboard=false")
GRACE_SECONDS = 3
SILENT_SECONDS = 30.0  # that the processes of a silent node are there, well after Ray has given it up
# A lost node is noticed within seconds instead of half a minute, actors are spread over the nodes, and a node
# that gets SIGTERM announces its end so many seconds before it, as a preempted one does.
LOSSES_SEEN_AT_ONCE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_scheduler_spread_threshold": "0.0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(GRACE_SECONDS),
}


class Loopback:
    """A head and `nodes` workers, each a `ray start` with a process tree of its own and token authentication.

    environment: what a driver needs to join; `extra` in it is what the nodes see, too. options: of the head.
    """

    def __init__(self, nodes: int, extra: Mapping[str, str], options: Sequence[str] = HEAD) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: sockets' paths must be
        self.token = secrets.token_hex(16)
        self._options = options
        self._count = nodes
        (self._port,) = free_ports(1)
        self.address = f"127.0.0.1:{self._port}"
        own = {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        self.environment = {**os.environ, **own, **extra}
        self._head: subprocess.Popen[bytes] | None = None
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._silent: list[tuple[float, subprocess.Popen[bytes], list[psutil.Process]]] = []

    @contextmanager
    def running(self) -> Iterator[Self]:
        """While entered, the nodes are there."""
        try:
            self.start()
            yield self
        finally:
            self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Starts all nodes; returns when the head answers and the workers are on their way."""
        options = ("--head", f"--port={self._port}", f"--temp-dir={self.folder}", *self._options)
        self._head = self._ray(*options)
        deadline = time.monotonic() + START_SECONDS
        while not answers(self._port):
            if self._head.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "log").read_text()
                raise RuntimeError(f"no Ray head on {self.address} within {START_SECONDS:.0f} s: {said}")
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
        kill_processes(self._others())

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
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def _others(self) -> Iterator[psutil.Process]:
        """Processes that name the cluster's folder: of nodes that Ray started, or whose parents are gone."""
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in part for part in process.info["cmdline"] or ()):
                yield from tree(process.pid)


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


def kill_processes(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to those that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each another."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [int(held.getsockname()[1]) for held in sockets]


def answers(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
