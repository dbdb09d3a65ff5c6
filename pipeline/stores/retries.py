"""Errors that pass by themselves: their names, and the one way in which they are tried again.

An error is transient when it, or what it was raised from, is named below: an HTTP status, a code of a store,
or an exception of a client. Everything else is raised at once.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
from fsspec import AbstractFileSystem
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_after_delay
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from pipeline.stores import storage_options

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 8  # of one operation
TOTAL_SECONDS = 300.0  # after which an operation is not begun again
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds: each wait is drawn from 0 to twice the range of the last
PATIENT_SECONDS, PATIENT_WAIT = 6 * 3600.0, 60.0  # in place of those, and of any number, inside `patient`

STATUSES = {408, 429, 500, 502, 503, 504}
STORE_CODES = {  # S3 sends some of them with status 400
    *(
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
    ),
    *("ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"),
    *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),  # damaged on the way
}
CLIENT_ERRORS = {  # package and class, so that no client is imported to be named
    *("builtins.ConnectionError", "builtins.TimeoutError"),
    *("http.IncompleteRead", "http.BadStatusLine"),
    *("aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError"),
    *(
        "botocore.ConnectionError",
        "botocore.HTTPClientError",
        "botocore.IncompleteReadError",
        "botocore.ResponseParserError",
    ),
    *("requests.ConnectionError", "requests.Timeout", "requests.ChunkedEncodingError"),
    *("urllib3.ProtocolError", "urllib3.TimeoutError", "urllib3.IncompleteRead"),
    *("httpx.TimeoutException", "httpx.NetworkError", "httpx.RemoteProtocolError"),
    *("google.TransportError", "gcsfs.ChecksumError"),
}
UNAUTHORIZED = "HTTP 401"  # of a token that ran out or was withdrawn: another one is fetched
NO_IDENTITY = {"NoCredentialsError", "CredentialRetrievalError"}  # botocore's, before a metadata server is up
# One is set where a metadata server may come.
ON_GOOGLE = ("KUBERNETES_SERVICE_HOST", "GCE_METADATA_HOST")
ON_AWS = (
    *("KUBERNETES_SERVICE_HOST", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
VENDOR = Path("/sys/class/dmi/id/sys_vendor")  # of this machine
NEVER = {  # kinds of the above that stay as they are
    *("builtins.PermissionError", "builtins.FileNotFoundError", "ssl.SSLCertVerificationError"),
    *("aiohttp.ClientSSLError", "aiohttp.ClientConnectorCertificateError", "aiohttp.InvalidURL"),
    *("botocore.SSLError", "requests.SSLError", "urllib3.SSLError"),
}

COUNTS: Counter[str] = Counter()
"""Retries of this process by the name of the error."""

NAMES = pa.list_(pa.string())
"""Names of errors, one a retry, as a column."""

_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_patient: ContextVar[bool] = ContextVar("patient", default=False)


class Since:
    """The retries of this process from here on."""

    def __init__(self) -> None:
        self._seen = Counter(COUNTS)

    def names(self) -> list[str]:
        """The error of each retry since the last call."""
        now = Counter(COUNTS)
        names = list((now - self._seen).elements())
        self._seen = now
        return names


def name(error: BaseException) -> str | None:
    """The name of a transient error, such as "HTTP 503", "SlowDown", "ReadTimeoutError"; None for others."""
    chain = list(_chain(error))
    if any(_is_one_of(cause, NEVER) for cause in chain):
        return None
    by_code = (found for cause in chain if (found := _name_by_code(cause)))
    by_kind = (type(cause).__name__ for cause in chain if _is_one_of(cause, CLIENT_ERRORS))
    return next(by_code, None) or next(by_kind, None) or _name_of_login(chain)


def _name_of_login(chain: Sequence[BaseException]) -> str | None:
    """The transient error of a login.

    A metadata server may answer only after a machine's or a pod's first seconds: there, no credentials are
    none yet.
    """
    if any(_is_one_of(cause, {"google.DefaultCredentialsError"}) for cause in chain):
        return "DefaultCredentialsError" if any(place in os.environ for place in ON_GOOGLE) else None
    if none := [cause for cause in chain if _is_one_of(cause, {f"botocore.{kind}" for kind in NO_IDENTITY})]:
        return type(none[0]).__name__ if _is_on_aws() else None
    for cause in chain:
        if _is_one_of(cause, {"google.RefreshError"}):
            return "RefreshError" if getattr(cause, "retryable", False) else None
    anonymous = any("anonymous caller" in str(cause).lower() for cause in chain)
    unauthorized = any(getattr(cause, "code", None) in (401, "401") for cause in chain)
    return UNAUTHORIZED if unauthorized and not anonymous else None


def _is_on_aws() -> bool:
    with suppress(OSError):
        if VENDOR.read_text().strip() == "Amazon EC2":
            return True
    return any(place in os.environ for place in ON_AWS)


@contextmanager
def patient() -> Iterator[None]:
    """Operations of this block are tried again for `PATIENT_SECONDS`: what they write took long to make."""
    token = _patient.set(True)
    try:
        yield
    finally:
        _patient.reset(token)


def patience() -> Callable[[], AbstractContextManager[None]]:
    """What makes a block elsewhere, such as in another thread, as patient as this place is."""
    return patient if _patient.get() else nullcontext


def retried(operation: Callable[[], T], what: str, again: Callable[[str], None] | None = None) -> T:
    """The operation's result, begun again after each transient error, with exponential backoff and jitter.

    what: named in the log. again: called with the error's name before each further try. Raises the last error
    when `ATTEMPTS` or `TOTAL_SECONDS` are used up, and at once one that is not transient.
    """
    seconds, longest = (PATIENT_SECONDS, PATIENT_WAIT) if _patient.get() else (TOTAL_SECONDS, LONGEST_WAIT)
    limit: stop_base = stop_after_delay(seconds)
    if not _patient.get():
        limit |= stop_after_attempt(ATTEMPTS)

    def count(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        label = str(error and name(error))
        COUNTS[label] += 1
        wait = state.next_action.sleep if state.next_action else 0.0
        tried = time.monotonic() - start
        logger.warning(
            "%s: %s for %.0f s, try %d in %.1f s, %.0f s at most",
            *(what, label, tried, state.attempt_number + 1, wait, seconds),
        )
        if again is not None:
            again(label)

    start = time.monotonic()

    return Retrying(
        retry=retry_if_exception(lambda error: name(error) is not None),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=longest),
        stop=limit,
        before_sleep=count,
        reraise=True,
    )(operation)


def url_to_fs(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path on it; what its client retries by itself is counted too.

    Clients know pages and parts, so botocore and gcsfs try single requests again; s3fs would do so once more
    above them, uncounted, and does not.
    """
    fs, path = fsspec.url_to_fs(url)
    protocols = _protocols(fs)
    if "s3" in protocols:
        fs.retries = 1
        _count_retries_of(fs.s3)
    elif "gs" in protocols:
        import gcsfs.retry

        gcsfs.retry.is_retriable = _gcsfs  # asked before each retry of a request
    return fs, path


def _count_retries_of(client: Any) -> None:
    """Of botocore, from here on."""
    if client not in _watched:
        most = (client.meta.config.retries or {}).get("total_max_attempts", storage_options.S3_ATTEMPTS)
        client.meta.events.register("needs-retry.s3", _Botocore(most))
        _watched.add(client)


class _Botocore:
    """Counts, after each attempt at a request, that botocore is about to make another."""

    def __init__(self, most: int) -> None:
        self._most = most

    def __call__(
        self, response: Any = None, attempts: int = 1, caught_exception: Any = None, **_: Any
    ) -> None:
        label = name(caught_exception) if caught_exception else _name_of_response(response and response[1])
        if label and attempts < self._most:
            COUNTS[label] += 1


def _protocols(fs: AbstractFileSystem) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def log_in_again(fs: AbstractFileSystem) -> None:
    """Drops a token that the store refuses, or none; the next request fetches another."""
    with suppress(Exception):  # of many kinds; then the token stays, and is refused again
        if "gs" in _protocols(fs):
            fs.credentials.connect(fs.credentials.token)
        elif "s3" in _protocols(fs):
            fs.connect(refresh=True)
            _count_retries_of(fs.s3)


def _gcsfs(error: BaseException) -> bool:
    label = name(error)
    if label == UNAUTHORIZED:
        return False  # gcsfs would send the same token
    if label is not None:
        COUNTS[label] += 1
    return label is not None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, or in the handling of, at most ten deep.

    s3fs stumbles over a RequestTimeout that it handles, and then raises an IndexError.
    """
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _name_by_code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        return _name_of_response(response)
    for holder, attribute in ((response, "status_code"), (error, "status"), (error, "code")):
        if (status := _number(getattr(holder, attribute, None))) is not None:
            return f"HTTP {status}" if status in STATUSES else None
    return None


def _name_of_response(response: Any) -> str | None:
    """The transient error in a parsed answer of S3, by the store's code, else by its status."""
    if not isinstance(response, dict):
        return None
    code = str(response.get("Error", {}).get("Code", ""))
    status = _number(response.get("ResponseMetadata", {}).get("HTTPStatusCode")) or _number(code)
    if code in STORE_CODES:
        return code
    return f"HTTP {status}" if status in STATUSES else None


def _number(status: Any) -> int | None:
    """A status as a number; clients have it as a number, an enumeration or text."""
    try:
        return int(status)
    except (TypeError, ValueError):
        return None


def _is_one_of(error: BaseException, names: set[str]) -> bool:
    return any(f"{kind.__module__.split('.')[0]}.{kind.__name__}" in names for kind in type(error).__mro__)
