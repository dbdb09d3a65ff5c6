"""The identity on Google Cloud and AWS: waited for, fetched again when refused, never given up for none."""

from __future__ import annotations

import json
import os
import threading
import time
import types
from collections import deque
from collections.abc import Container, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import gcsfs.core
import pytest
from google.auth import _exponential_backoff
from google.auth.compute_engine import _metadata

from pipeline.stores import retries, storage, storage_options
from tests.stores import SECRET, Proxy, Store, make_bucket, proxied

LATER = (datetime.now(UTC) + timedelta(hours=6)).isoformat()


class Metadata(ThreadingHTTPServer):
    """A machine's metadata server, Google's and AWS's: it refuses requests by number (`late`).

    tokens: what it hands out on Google, in order.
    """

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
        elif self.path.endswith("/iam/security-credentials/"):
            self._answer(200, "text/plain", b"worker")
        elif self.path.endswith("/iam/security-credentials/worker"):
            keys = {"AccessKeyId": "k", "SecretAccessKey": SECRET, "Token": "t", "Code": "Success"}
            self._answer(200, "application/json", json.dumps(keys | {"Expiration": LATER}).encode())
        elif "/token" in self.path:
            token = {"access_token": self.server.tokens.popleft(), "expires_in": 3600, "token_type": "Bearer"}
            self._answer(200, "application/json", json.dumps(token).encode())
        elif "recursive" in self.path:
            account = {"email": "worker@p.iam.gserviceaccount.com", "aliases": ["default"], "scopes": []}
            self._answer(200, "application/json", json.dumps(account).encode())
        else:
            self._answer(200, "application/text", b"p" if "project-id" in self.path else b"")

    def do_PUT(self) -> None:
        """The first thing that AWS's client asks for: a token for its session."""
        self.server.asked += 1
        late = self.server.asked in self.server.late
        self._answer(503 if late else 200, "text/plain", b"session")

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
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{address}/")
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


@pytest.fixture
def nameless(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file on S3, for a client that is told of no key."""
    url = f"{make_bucket(s3_store, 'identity')}/file"
    storage_options.configure(s3_store.options)
    storage.write_text(url, "text")
    for name in [name for name in os.environ if name.startswith("AWS_") and "METADATA" not in name]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    s3 = {"endpoint_url": s3_store.endpoint, "client_kwargs": {"region_name": "us-east-1"}}
    storage_options.configure({"s3": s3})
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield url
    storage_options.configure({})


def test_a_metadata_server_of_aws_that_is_late_is_waited_for(metadata: Metadata, nameless: str) -> None:
    metadata.late = range(1, 4)
    since = retries.Since()
    assert storage.read_text(nameless) == "text"
    assert metadata.asked >= metadata.late.stop and set(since.names()) == {"NoCredentialsError"}


def test_without_any_key_a_laptop_is_told_so_at_once(
    metadata: Metadata, nameless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata.late = range(10**6)
    for place in retries.ON_AWS:
        monkeypatch.delenv(place, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    since = retries.Since()
    with pytest.raises(storage.StorageError, match="Unable to locate credentials; check the credentials"):
        storage.read_text(nameless)
    assert since.names() == []
