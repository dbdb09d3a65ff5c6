"""Named errors are tried again, bounded and counted; all others are raised at once."""

from __future__ import annotations

import http.client
import ssl
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import botocore.exceptions
import fsspec
import google.auth.exceptions
import pytest
import requests
import urllib3
from botocore.exceptions import ClientError
from gcsfs.retry import ChecksumError, HttpError
from s3fs.errors import translate_boto_error

from pipeline.stores import retries, storage


def s3(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def answer(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


TRANSIENT = [
    *((HttpError({"code": status}), f"HTTP {status}") for status in (408, 429, 500, 502, 503, 504)),
    (HttpError({"code": "503"}), "HTTP 503"),
    *((s3(str(status), status), f"HTTP {status}") for status in (429, 500, 502, 503, 504)),
    *((s3(code, 400), code) for code in ("SlowDown", "InternalError", "RequestTimeout", "Throttling")),
    (aiohttp.ClientResponseError(None, (), status=502), "HTTP 502"),  # type: ignore[arg-type]
    (answer(503), "HTTP 503"),
    (requests.exceptions.ProxyError(), "ProxyError"),  # gcsfs's word for 502
    (ConnectionResetError(104, "reset"), "ConnectionResetError"),
    (TimeoutError(), "TimeoutError"),
    (http.client.RemoteDisconnected(""), "RemoteDisconnected"),
    (http.client.IncompleteRead(b""), "IncompleteRead"),
    (aiohttp.ServerDisconnectedError(), "ServerDisconnectedError"),
    (aiohttp.ClientPayloadError(), "ClientPayloadError"),
    (botocore.exceptions.ReadTimeoutError(endpoint_url="http://s"), "ReadTimeoutError"),
    (botocore.exceptions.EndpointConnectionError(endpoint_url="http://s"), "EndpointConnectionError"),
    (requests.exceptions.ReadTimeout(), "ReadTimeout"),
    (requests.exceptions.ChunkedEncodingError(), "ChunkedEncodingError"),
    (urllib3.exceptions.ProtocolError(), "ProtocolError"),
    (google.auth.exceptions.TransportError(), "TransportError"),
    (ChecksumError(), "ChecksumError"),
    (HttpError({"code": 401, "message": "Invalid Credentials"}), "HTTP 401"),
    (raised_from(HttpError({"code": 401}), google.auth.exceptions.TransportError()), "TransportError"),
    (google.auth.exceptions.RefreshError("busy", retryable=True), "RefreshError"),
]
OTHERS = [
    *(HttpError({"code": status}) for status in (400, 403, 404, 412, 501)),
    HttpError({"code": 401, "message": "Anonymous caller does not have storage.objects.get access"}),
    raised_from(HttpError({"code": 401}), google.auth.exceptions.RefreshError("the key was deleted")),
    *(s3(code, status) for code, status in (("AccessDenied", 403), ("NoSuchBucket", 404), ("400", 400))),
    botocore.exceptions.NoCredentialsError(),
    botocore.exceptions.SSLError(endpoint_url="https://s", error="certificate"),
    requests.exceptions.SSLError(),
    ssl.SSLCertVerificationError(),
    FileNotFoundError(),
    PermissionError(),
    OSError(28, "no space left on device"),
    ValueError("HTTP 503"),
]


@pytest.mark.parametrize(("error", "name"), TRANSIENT, ids=lambda value: type(value).__name__)
def test_a_transient_error_has_a_name(error: Exception, name: str) -> None:
    assert retries.name(error) == name


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_other_errors_have_none(error: Exception) -> None:
    assert retries.name(error) is None


def test_no_credentials_are_none_yet_only_where_a_metadata_server_may_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = google.auth.exceptions.DefaultCredentialsError("not found")
    for place in retries.ON_GOOGLE:
        monkeypatch.delenv(place, raising=False)
    assert retries.name(error) is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert retries.name(error) == "DefaultCredentialsError"


def test_an_error_is_known_by_what_it_was_raised_from() -> None:
    """s3fs makes plain OSErrors of S3's answers."""
    translated = translate_boto_error(s3("SlowDown", 503))
    assert type(translated) is OSError and retries.name(translated) == "SlowDown"
    assert isinstance(refused := translate_boto_error(s3("AccessDenied", 403)), PermissionError)
    assert retries.name(refused) is None


def test_a_file_that_is_missing_is_missing_whatever_was_asked_before() -> None:
    missing = FileNotFoundError("gone")
    missing.__cause__ = ConnectionResetError()
    assert retries.name(missing) is None


class Failing:
    """Fails with the errors given, one a call, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited, in seconds; nothing is."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    return waited


def test_what_fails_in_passing_succeeds_and_is_counted(waits: list[float]) -> None:
    since = retries.Since()
    operation = Failing(HttpError({"code": 503}), s3("SlowDown", 503), HttpError({"code": 503}))
    assert retries.retried(operation, "s3://bucket/file") == "answer"
    assert operation.calls == 4 and Counter(since.names()) == {"HTTP 503": 2, "SlowDown": 1}
    assert since.names() == []


def test_what_does_not_pass_is_raised_after_a_bounded_number_of_tries(waits: list[float]) -> None:
    operation = Failing(*[HttpError({"code": 503})] * 100)
    with pytest.raises(HttpError):
        retries.retried(operation, "file")
    assert operation.calls == retries.ATTEMPTS
    assert max(waits) <= retries.LONGEST_WAIT


def test_waits_grow_and_are_drawn_by_chance(waits: list[float]) -> None:
    for _ in range(30):
        retries.retried(Failing(*[TimeoutError()] * 7), "file")
    by_try = [waits[number::7] for number in range(7)]
    assert len({round(wait, 6) for wait in by_try[0]}) > 20, "without jitter all clients come back at once"
    for number, of_try in enumerate(by_try):
        assert max(of_try) <= min(retries.FIRST_WAIT * 2**number, retries.LONGEST_WAIT)
    assert sum(by_try[5]) > 4 * sum(by_try[1])


def test_an_operation_is_not_begun_again_for_ever(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    clock = iter(range(0, 10_000, 200))
    monkeypatch.setattr("tenacity.time.monotonic", lambda: float(next(clock)))
    operation = Failing(*[TimeoutError()] * 100)
    with pytest.raises(TimeoutError):
        retries.retried(operation, "file")
    assert operation.calls < retries.ATTEMPTS


def test_patience_tries_on_for_hours_a_minute_apart_and_then_ends(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setattr("tenacity.time.monotonic", lambda: sum(waits))
    with retries.patient(), pytest.raises(TimeoutError):
        retries.retried(Failing(*[TimeoutError()] * 10_000), "file")
    assert retries.PATIENT_SECONDS <= sum(waits) < retries.PATIENT_SECONDS + retries.PATIENT_WAIT
    assert retries.LONGEST_WAIT < max(waits) <= retries.PATIENT_WAIT
    waits.clear()
    with pytest.raises(TimeoutError):
        retries.retried(Failing(*[TimeoutError()] * 100), "file")
    assert len(waits) == retries.ATTEMPTS - 1


def test_a_file_is_read_in_other_threads_as_patiently_as_where_it_was_opened(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """Arrow reads a file from threads of its own."""
    with fsspec.open("memory://patience/file", "wb") as file:
        file.write(b"content")
    genuine, tries = storage._open_ranged, Failing(*[ConnectionResetError()] * (retries.ATTEMPTS + 2))

    def away(fs: Any, path: str, ahead: int) -> Any:
        opened = genuine(fs, path, ahead)
        read = opened.read
        opened.read = lambda size: tries() and read(size)
        return opened

    monkeypatch.setattr(storage, "_open_ranged", away)
    with ThreadPoolExecutor(1) as other:
        with retries.patient():
            opened = storage.open_read("memory://patience/file")
        assert other.submit(opened.read, 7).result() == b"content"
        tries.errors = [ConnectionResetError()] * (retries.ATTEMPTS + 2)
        with pytest.raises(storage.StorageError):
            other.submit(storage.open_read("memory://patience/file").read, 7).result()


@pytest.mark.parametrize(
    "error", [PermissionError("no"), ValueError("no"), HttpError({"code": 403})], ids=repr
)
def test_another_error_is_raised_at_once(error: Exception, waits: list[Any]) -> None:
    operation = Failing(error)
    with pytest.raises(type(error)):
        retries.retried(operation, "file")
    assert operation.calls == 1 and not waits
