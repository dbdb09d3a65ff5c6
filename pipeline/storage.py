"""Files on any fsspec URL: listing, reading and writes that appear whole or not at all."""

from __future__ import annotations

import os
import posixpath
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import fsspec
from fsspec import AbstractFileSystem

LEFTOVER_SUFFIX = ".tmp"  # a write that never ended; no reader's *.parquet pattern matches it


def absolute(url: str) -> str:
    """The URL itself, or a local path made absolute, for workers that run in another folder."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def split(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path on it, without a closing slash."""
    fs, path = fsspec.url_to_fs(url)
    return fs, path.rstrip("/")


def join(url: str, *parts: str) -> str:
    return posixpath.join(url.rstrip("/"), *parts)


def is_local(fs: AbstractFileSystem) -> bool:
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return protocol in ("file", "local")


def find(url: str, suffix: str = "") -> list[str]:
    """Sorted paths below a folder of all its files that end in `suffix`; [] where the folder is missing."""
    fs, root = split(url)
    fs.invalidate_cache()
    try:
        paths = fs.find(root)
    except FileNotFoundError:
        return []
    return sorted(
        path[len(root) + 1 :] for path in paths if path.startswith(root + "/") and path.endswith(suffix)
    )


def exists(url: str) -> bool:
    fs, path = split(url)
    fs.invalidate_cache()
    return bool(fs.exists(path))


def open_read(url: str) -> BinaryIO:
    """A seekable file, read in ranges."""
    fs, path = split(url)
    return fs.open(path, "rb")


def read_text(url: str) -> str:
    with open_read(url) as file:
        return file.read().decode()


def remove(url: str) -> None:
    """Removes one file; that it is gone already is no error, for a repeated task tidies again."""
    fs, path = split(url)
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        return


def remove_empty_folder(url: str) -> None:
    """Removes a local folder when nothing is in it; object stores have no folders."""
    fs, path = split(url)
    if is_local(fs):
        try:
            os.rmdir(path)
        except OSError:
            return


@contextmanager
def write_whole(url: str) -> Iterator[BinaryIO]:
    """A file to write that appears under its name only when the block ends without an error.

    Locally: a hidden neighbour that is renamed. On an object store: a local temporary file sent by one
    upload, which the store shows when it is complete.
    """
    fs, path = split(url)
    if is_local(fs):
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        neighbour = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}{LEFTOVER_SUFFIX}")
        try:
            with open(neighbour, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(neighbour, path)
        except BaseException:
            remove(neighbour)
            raise
    else:
        with tempfile.NamedTemporaryFile() as file:
            yield file  # type: ignore[misc]
            file.flush()
            fs.put_file(file.name, path)
            fs.invalidate_cache()


def write_text(url: str, text: str) -> None:
    with write_whole(url) as file:
        file.write(text.encode())
