"""The identity on Google Cloud: waited for, fetched again when it is refused, and never given up for none."""

from __future__ import annotations

import json
import threading
import time
import types
from collections import deque
from collections.abc import Container, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import gcsfs.core
import pytest
from google.auth import _exponential_backoff
from google.auth.compute_engine import _metadata

from pipeline.stores import retries, storage, storage_options
from tests.stores import Proxy, Store, make_bucket, proxied


class Metadata(ThreadingHTTPServer):
    """A machine's metadata server: it refuses requests by number (`late`), and hands out tokens."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Metadata)
        self.late: Container[int] = ()
        self.tokens: deque[str] = deque()
        self.asked = 0


class _Metadata(BaseHTTPRequestHandler):
    server: Metadata

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.asked in self.server.late:
            self._answer(503, "text/plain", b"not yet")
        elif "/token" in self.path:
            token = {"access_token": self.server.tokens.popleft(), "expires_in": 3600, "token_type": "Bearer"}
            self._answer(200, "application/json", json.dumps(token).encode())
        elif "recursive" in self.path:
            account = {"email": "worker@p.iam.gserviceaccount.com", "aliases": ["default"], "scopes": []}
            self._answer(200, "application/json", json.dumps(account).encode())
        else:
            self._answer(200, "application/text", b"p" if "project-id" in self.path else b"")

    def _answer(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Metadata-Flavor", "Google"),
            ("Content-Type", kind),
            ("Content-Length", len(data)),
        ):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    """On loopback, and as in a pod; clients wait for milliseconds where they would for seconds."""
    server = Metadata()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", address)
    monkeypatch.setenv("GCE_METADATA_IP", address)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(_exponential_backoff, "time", types.SimpleNamespace(sleep=lambda _: time.sleep(0.01)))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def file(gs_store: Store, request: pytest.FixtureRequest) -> str:
    url = f"{make_bucket(gs_store, f'identity-{abs(hash(request.node.name))}')}/file"
    storage_options.configure(gs_store.options)
    storage.write_text(url, "text")
    return url


@pytest.fixture
def proxy(gs_store: Store, file: str) -> Iterator[Proxy]:
    """A store that lets in who has the first token."""
    with proxied(gs_store) as found:
        found.tokens = {"first"}
        storage_options.configure({"gs": {"endpoint_url": found.store.endpoint, "token": "google_default"}})
        gcsfs.core.GCSFileSystem.clear_instance_cache()
        yield found
    storage_options.configure({})


@pytest.mark.parametrize("late", [range(1, 4), range(3, 14)], ids=["at first", "before the first token"])
def test_a_metadata_server_that_is_late_is_waited_for(
    metadata: Metadata, proxy: Proxy, file: str, late: range
) -> None:
    metadata.late, metadata.tokens = late, deque(["first"])
    assert storage.read_text(file) == "text"
    assert metadata.asked >= late.stop
    assert proxy.refused == [], "it asked the store without an identity"


def test_a_token_that_is_refused_is_replaced(metadata: Metadata, proxy: Proxy, file: str) -> None:
    metadata.tokens = deque(["first", "second"])
    assert storage.read_text(file) == "text"
    proxy.tokens = {"second"}
    since = retries.Since()
    assert storage.read_text(file) == "text"
    assert set(proxy.refused) == {"first"} and since.names() == ["HTTP 401"]


def test_without_any_credentials_a_laptop_is_told_so_at_once(
    metadata: Metadata, proxy: Proxy, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata.late = range(10**6)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    since = retries.Since()
    with pytest.raises(storage.StorageError, match="cannot be reached: .*token: anon"):
        storage.read_text(file)
    assert since.names() == [] and proxy.refused == []


def test_a_bucket_gets_an_identity_and_the_class_of_the_tests(
    monkeypatch: pytest.MonkeyPatch, gs_store: Store
) -> None:
    storage_options.configure({})
    assert fsspec.config.conf["gs"]["token"] == "google_default"
    assert type(fsspec.filesystem("gs", token="anon")) is gcsfs.core.GCSFileSystem
    for where in ({"gs": {"endpoint_url": gs_store.endpoint}}, {"gcs": {"endpoint_url": gs_store.endpoint}}):
        storage_options.configure(where)
        assert type(fsspec.filesystem("gs")) is gcsfs.core.GCSFileSystem
        assert fsspec.config.conf["gs"]["token"] == "anon"
    storage_options.configure({"gs": {"endpoint_url": "https://storage.example"}})
    assert fsspec.config.conf["gs"]["token"] == "google_default"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs_store.endpoint)
    storage_options.configure({})
    assert fsspec.config.conf["gs"]["token"] == "anon"
    monkeypatch.undo()
    storage_options.configure({})
