"""A small file that several processes write: each write names what it replaces, and the store compares.

Google Cloud Storage compares generations, S3 compares ETags, and on a disk a lock and a hard link do as much.
S3-compatible servers that know no conditions, and other stores, write in any case: of two writers in the same
moment the later one wins, as `read` shows.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fsspec import AbstractFileSystem

from pipeline.stores import storage

OTHERS_WROTE = {"PreconditionFailed", "ConditionalRequestConflict"}  # S3's codes


class Changed(Exception):
    """Another process wrote, or removed, the file first."""


@dataclass(frozen=True)
class Stored:
    """What a file held, and the store's own name of that state; texts are never written twice."""

    text: str
    version: str


def read(url: str) -> Stored | None:
    """The file; None where there is none."""
    fs, path = storage.split(url)
    calls = _CALLS.get(_protocol(fs))
    try:
        # The version first: with a later text it only fails to replace that.
        version = storage.attempt(fs, url, "read", lambda: calls.version(fs, path)) if calls else None
        text = storage.read_text(url)
    except FileNotFoundError:
        return None
    return Stored(text, text if version is None else version)


def write(url: str, text: str, over: Stored | None) -> None:
    """Writes the file in place of `over`, or None where there must be none. Raises Changed."""
    fs, path = storage.split(url)
    if calls := _CALLS.get(_protocol(fs)):
        version, data = over and over.version, text.encode()
        try:
            done = storage.attempt(fs, url, "written", lambda: _done(calls.put, fs, path, data, version))
        except FileNotFoundError as error:
            raise storage.StorageError(f"{error}; {storage.NO_BUCKET}") from error
        if not done and ((now := read(url)) is None or now.text != text):  # else the answer to it was lost
            raise Changed
    elif not storage.is_local(fs):
        storage.write_text(url, text)
    elif over is None:
        _create(path, text)
    else:
        with _still(path, over):
            storage.write_text(url, text)


def remove(url: str, over: Stored) -> None:
    """Removes the file while it is `over`. Raises Changed."""
    fs, path = storage.split(url)
    if calls := _CALLS.get(_protocol(fs)):
        if not storage.attempt(fs, url, "removed", lambda: _done(calls.remove, fs, path, over.version)):
            raise Changed
    elif not storage.is_local(fs):
        storage.remove(url)
    else:
        with _still(path, over):
            os.remove(path)


def _protocol(fs: AbstractFileSystem) -> str:
    return fs.protocol if isinstance(fs.protocol, str) else str(fs.protocol[0])


def _create(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(path, "x") as file:
            file.write(text)
    except FileExistsError as error:
        raise Changed from error
    except OSError:
        with suppress(OSError):
            os.remove(path)
        raise


@contextmanager
def _still(path: str, over: Stored) -> Iterator[None]:
    """Alone with a local file, where its file system locks, while it is `over`. Raises Changed."""
    try:
        with open(path, "r+b") as file:
            with suppress(OSError):  # a network file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            replaced = not os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            if replaced or file.read() != over.text.encode():
                raise Changed
            yield
    except FileNotFoundError as error:
        raise Changed from error


@dataclass(frozen=True)
class _Calls:
    """Requests of a store's client for a path; with a version those that depend on it, None being no file."""

    version: Callable[[Any, str], str]
    put: Callable[..., Any]
    remove: Callable[..., Any]


def _done(call: Callable[..., Any], *arguments: Any) -> bool:
    """Makes a call that depends on a version, its last argument; whether the store found that."""
    try:
        call(*arguments)
    except FileExistsError:  # gcsfs's word for a precondition that failed
        return False
    except OSError as error:
        gone = isinstance(error, FileNotFoundError) and arguments[-1] is not None
        if not gone and _s3_code(error) not in OTHERS_WROTE:
            raise
        return False
    return True


def _s3_version(fs: Any, path: str) -> str:
    return str(_s3(fs, "head_object", path)["ETag"])


def _s3_put(fs: Any, path: str, data: bytes, version: str | None) -> None:
    _s3_if(fs, "put_object", path, {"IfMatch": version} if version else {"IfNoneMatch": "*"}, Body=data)


def _s3_remove(fs: Any, path: str, version: str) -> None:
    _s3_if(fs, "delete_object", path, {"IfMatch": version})


def _s3_if(fs: Any, method: str, path: str, condition: dict[str, str], **arguments: Any) -> None:
    try:
        _s3(fs, method, path, **arguments, **condition)
    except OSError as error:
        if _s3_code(error) != "NotImplemented":
            raise
        _s3(fs, method, path, **arguments)


def _s3(fs: Any, method: str, path: str, **arguments: Any) -> Any:
    bucket, key, _ = fs.split_path(path)
    return fs.call_s3(method, Bucket=bucket, Key=key, **arguments)


def _s3_code(error: BaseException) -> str | None:
    response = getattr(error.__cause__, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def _gs_version(fs: Any, path: str) -> str:
    bucket, key, _ = fs.split_path(path)
    return str(fs.call("GET", "b/{}/o/{}", bucket, key, json_out=True)["generation"])


def _gs_put(fs: Any, path: str, data: bytes, version: str | None) -> None:
    bucket, key, _ = fs.split_path(path)
    url = f"{fs.base.removesuffix('storage/v1/')}upload/storage/v1/b/{quote(bucket, safe='')}/o"
    fs.call("POST", url, uploadType="media", name=key, ifGenerationMatch=version or "0", data=data)


def _gs_remove(fs: Any, path: str, version: str) -> None:
    bucket, key, _ = fs.split_path(path)
    fs.call("DELETE", "b/{}/o/{}", bucket, key, ifGenerationMatch=version)


_CALLS = {"s3": _Calls(_s3_version, _s3_put, _s3_remove), "gs": _Calls(_gs_version, _gs_put, _gs_remove)}
