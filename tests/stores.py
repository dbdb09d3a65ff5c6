"""Real object stores on loopback, and a proxy before one that counts and breaks requests."""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import fsspec

SECRET = "loopback-secret-5f2c"  # moto takes any

FAULTS = (
    *("HTTP 429", "HTTP 500", "HTTP 502", "HTTP 503", "HTTP 504"),
    *("connection reset", "cut short", "read timeout"),
)
REASONS = {401: "Invalid Credentials"}  # Google's words
S3_FAULTS = {"SlowDown": 503, "InternalError": 500, "RequestTimeout": 400}
S3_REFUSALS = {"NotImplemented": 501}
PRECONDITION_FAILED: tuple[int, list[tuple[str, str]], bytes] = (412, [], b"")


@dataclass(frozen=True)
class Store:
    """protocol: s3 or gs. endpoint: http://127.0.0.1:PORT."""

    protocol: str
    endpoint: str

    @property
    def options(self) -> dict[str, Any]:
        """The `storage` of a job on it; the secret is in the environment variable P2L_TEST_SECRET."""
        if self.protocol == "s3":
            client = {"region_name": "us-east-1"}
            return {
                "s3": {
                    "endpoint_url": self.endpoint,
                    "key": "env:P2L_TEST_KEY",
                    "client_kwargs": client,
                    "secret": "env:P2L_TEST_SECRET",
                }
            }
        return {"gs": {"endpoint_url": self.endpoint, "token": "anon", "project": "p"}}

    @property
    def environment(self) -> dict[str, str]:
        """The same for commands that read no job file."""
        if self.protocol == "s3":
            return {
                "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_ACCESS_KEY_ID": "loopback",
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        return {"STORAGE_EMULATOR_HOST": self.endpoint, "FSSPEC_GS_TOKEN": "anon", "FSSPEC_GS_PROJECT": "p"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(protocol: str) -> Iterator[Store]:
    """A store in a process of its own."""
    port = free_port()
    if protocol == "s3":
        command = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    else:
        command = ["-m", "gcp_storage_emulator", "start", "--in-memory", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_up(port, process)
        yield Store(protocol, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def wait_until_up(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "the store did not start"
            time.sleep(0.1)


def make_bucket(store: Store, name: str) -> str:
    """The URL of a bucket that is there afterwards."""
    if store.protocol == "s3":
        client = {"region_name": "us-east-1"}
        fs = fsspec.filesystem(
            "s3", key="k", secret=SECRET, endpoint_url=store.endpoint, client_kwargs=client
        )
        fs.call_s3("create_bucket", Bucket=name)
    else:
        fsspec.filesystem("gs", **store.options["gs"]).mkdir(name)
    return f"{store.protocol}://{name}"


@dataclass
class Proxy:
    """Passes requests on to a store. `calls` and `sent` count requests and bytes answered by kind of call.

    delay: seconds that each answer takes longer. most: requests of a kind that were open at once.
    """

    store: Store
    upstream: Store
    planned: deque[tuple[str, str]] = field(default_factory=deque)  # (kind of call or any, fault), in order
    rate: float = 0.0
    burst: int = 1  # requests that fail one after the other
    faults: tuple[str, ...] = FAULTS
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    calls: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    broken: Counter[tuple[str, str]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stall: float = 1.0  # seconds of a read timeout; clients of a test wait for less
    delay: float = 0.0
    most: Counter[str] = field(default_factory=Counter)
    _open: Counter[str] = field(default_factory=Counter)
    tokens: set[str] | None = None  # those that are let in, where there are any
    refused: list[str] = field(default_factory=list)  # tokens, "" for none
    conditional: threading.Lock = field(default_factory=threading.Lock)  # a store compares and writes at once
    left: int = 0

    @contextmanager
    def counted(self, kind: str) -> Iterator[None]:
        """Notes that a request is open, and keeps it so for `delay` seconds."""
        with self.lock:
            self._open[kind] += 1
            self.most[kind] = max(self.most[kind], self._open[kind])
        time.sleep(self.delay)
        try:
            yield
        finally:
            with self.lock:
                self._open[kind] -= 1

    def fault_for(self, kind: str) -> str | None:
        with self.lock:
            self.calls[kind] += 1
            fault = None
            if self.planned and self.planned[0][0] in (kind, "any"):
                fault = self.planned.popleft()[1]
            elif self.left or self.chance.random() < self.rate:
                self.left = (self.left or self.burst) - 1
                fault = self.chance.choice(self.faults)
            if fault:
                self.broken[kind, fault] += 1
            return fault


@contextmanager
def proxied(upstream: Store) -> Iterator[Proxy]:
    class Handler(_Handler):
        pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that goes away in the middle is what these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    Handler.proxy = Proxy(Store(upstream.protocol, f"http://127.0.0.1:{server.server_port}"), upstream)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Handler.proxy
    finally:
        server.shutdown()
        server.server_close()


def kind_of(method: str, path: str) -> str:
    """list, look up, read, write or delete."""
    if method == "GET":
        if "list-type=2" in path or re.search(r"/o(\?|$)", path):
            return "list"
        return "look up" if "/storage/v1/" in path and "alt=media" not in path else "read"
    return {"HEAD": "look up", "DELETE": "delete"}.get(method, "write")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = kind_of(self.command, self.path)
        with self.proxy.counted(kind):
            self._serve_one(kind, body)

    def _serve_one(self, kind: str, body: bytes) -> None:
        fault = self.proxy.fault_for(kind)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.proxy.tokens is not None and token not in self.proxy.tokens:
            fault = "HTTP 401"
            self.proxy.refused.append(token)
        if fault is None and self._is_conditional():
            with self.proxy.conditional:
                answer = self._pass_on(body) if self._generation_matches() else PRECONDITION_FAILED
            self._answer(kind, *answer)
        elif fault is None:
            self._answer(kind, *self._pass_on(body))
        elif fault == "read timeout":
            time.sleep(self.proxy.stall)
            self._reset()
        elif fault == "connection reset":
            self._pass_on(body)  # the store has done it; only the answer is lost
            self._reset()
        elif fault == "cut short":
            status, headers, data = self._pass_on(body)
            self._answer(kind, status, headers, data, cut=True)
        else:
            self._refuse(fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _serve

    def _is_conditional(self) -> bool:
        return "ifGenerationMatch" in self.path or {"If-Match", "If-None-Match"} & set(self.headers) != set()

    def _generation_matches(self) -> bool:
        """What Google's store does and its emulator leaves out; moto compares by itself."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if not (wanted := query.get("ifGenerationMatch")):
            return True
        path = url.path.removeprefix("/upload")
        if self.command == "POST":
            path += f"/{quote(query['name'][0], safe='')}"
        status, _, data = self._ask("GET", path, b"", {})
        return wanted[0] == (json.loads(data)["generation"] if status == HTTPStatus.OK else "0")

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        return self._ask(self.command, self.path, body, headers)

    def _ask(
        self, command: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        host = self.proxy.upstream.endpoint.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request(command, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), data

    def _answer(
        self, kind: str, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of a HEAD, whose answer has no data
            elif name.lower() not in ("connection", "transfer-encoding"):
                own, other = self.proxy.upstream.endpoint, self.proxy.store.endpoint
                self.send_header(name, value.replace(own, other))
        self.send_header("Content-Length", length)
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            self._reset()
            return
        if self.command != "HEAD":
            self.wfile.write(data)
        with self.proxy.lock:
            self.proxy.sent[kind] += len(data)

    def _refuse(self, fault: str) -> None:
        codes = S3_FAULTS | S3_REFUSALS
        status = codes[fault] if fault in codes else int(fault.removeprefix("HTTP "))
        code = fault if fault in codes else str(status)
        if self.proxy.upstream.protocol == "s3":
            data = f"<Error><Code>{code}</Code><Message>as planned</Message></Error>".encode()
        else:
            data = json.dumps(
                {"error": {"code": status, "message": REASONS.get(status, "as planned")}}
            ).encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        """Closes with RST, as a machine that goes away does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        pass
