"""Files on any fsspec URL: listing, reading and writes that appear whole or not at all.

An address is a string: `protocol://store/path`, or a local path. `join` alone makes one from a folder and a
name, and `split` alone takes one apart. URL syntax is read only in what stands before the path, as a person
gave it; the path is taken letter by letter, whatever `::`, `?`, `#`, `%`, `//` or `://` the names in it hold.

Every call tries transient errors again (`pipeline.stores.retries`). On anything but this machine's disk, what
still goes wrong is a StorageError that names the URL, or FileNotFoundError where that is what is wrong.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar, cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.messages import redact
from pipeline.stores import retries

LEFTOVER_SUFFIX = ".tmp"  # a write that never ended; no reader's *.parquet pattern matches it
NAME_BYTES = 255 - len("..12345678.tmp")  # of a file system's longest names, with room for `_neighbour`
READ_AHEAD = 4 * 2**20  # bytes, for many small reads in order
SHOW_WHOLE_UPLOADS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"}
NO_BUCKET = "make the bucket first, or mend its name"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://([^/]*)(.*)\Z", re.DOTALL)  # protocol, store, path

T = TypeVar("T")


class StorageError(OSError):
    """A store that did not do what was asked; the message names the object and says what to do."""


def absolute(url: str) -> str:
    """The URL itself, or a local path made absolute, for workers that run in another folder.

    A closing slash, by which a glob means folders only, is kept.
    """
    if _URL.match(url):
        return url
    path = os.path.abspath(os.path.expanduser(url))
    return f"{path}/" if url.endswith("/") and path != "/" else path


def split(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address and the path on it, without a closing slash.

    Raises StorageError for an unknown protocol, one whose package is missing, a chain of protocols (`::`),
    a login that fails, and a path that the store's client would take for another.
    """
    protocol, store, below = found.groups() if (found := _URL.match(url)) else ("file", "", url)
    if "::" in protocol + store:
        raise StorageError(redact(f"{url}: chains of protocols with :: are not followed; give a URL of one"))
    try:
        fs, root = retries.retried(lambda: retries.url_to_fs(f"{protocol}://{store}"), url)
    except (ImportError, TypeError, ValueError) as error:
        raise StorageError(redact(f"{url}: {error}")) from error
    except Exception as error:  # of the login to a store, which is of many kinds
        raise _in_words(error, url, "reached") from error
    if isinstance(fs, LocalFileSystem):  # a relative path is below the current folder
        return fs, str(fs._strip_protocol((store + below).rstrip("/") or "/"))
    path = (root.rstrip("/") + below).rstrip("/")
    if not _is_exact(fs, path):
        raise StorageError(redact(f"{url}: the store's client would take its path for another; rename it"))
    return fs, path


def join(folder: str, *names: str) -> str:
    """The address of what is in a folder, by its path below it, which is taken letter by letter."""
    return "/".join((folder.rstrip("/"), *names))


def unreadable(folder: str, names: Iterable[str]) -> set[str]:
    """Those of a folder's names that its store's client would take for other names."""
    fs, path = split(folder)
    return {name for name in names if name.endswith("/") or not _is_exact(fs, f"{path}/{name}")}


def _is_exact(fs: AbstractFileSystem, path: str) -> bool:
    """Whether a client takes a path letter by letter. s3fs, for one, cuts a key at `?versionId=`."""
    if not hasattr(fs, "split_path"):
        parts = {".", ".."} & set(path.split("/"))  # which a server may resolve
        return not parts and fs._strip_protocol(path) == path
    bucket, key, *version = fs.split_path(path)
    return not any(version) and path in (bucket, f"{bucket}/{key}")


def is_local(fs: AbstractFileSystem) -> bool:
    """Whether its files are this machine's."""
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return protocol in ("file", "local")


def find(url: str, suffix: str = "", *, prefix: str = "") -> list[str]:
    """Sorted paths below a folder of all its files that begin and end so; [] where the folder is missing."""
    fs, root = split(url)
    fs.invalidate_cache()
    narrowed = {"prefix": prefix} if prefix and hasattr(fs, "split_path") else {}  # s3fs, gcsfs
    try:
        paths = attempt(fs, url, "listed", lambda: fs.find(root, **narrowed))
    except FileNotFoundError:
        return []
    inside = root.rstrip("/") + "/"
    names = (path[len(inside) :] for path in paths if path.startswith(inside))
    return sorted(name for name in names if name.startswith(prefix) and name.endswith(suffix))


def exists(url: str) -> bool:
    """Whether there is a file or a folder."""
    return kind(url) is not None


def kind(url: str) -> str | None:
    """What is there: file, directory or, on this machine, other; None for nothing.

    A store that does not answer is no answer: it raises StorageError.
    """
    fs, path = split(url)
    if is_local(fs):
        kinds = {"file": os.path.isfile, "directory": os.path.isdir, "other": os.path.exists}
        return next((name for name, is_kind in kinds.items() if is_kind(path)), None)
    return _kind_in_store(fs, url, path)


def _kind_in_store(fs: AbstractFileSystem, url: str, path: str) -> str | None:
    fs.invalidate_cache()
    try:
        return str(attempt(fs, url, "looked up", lambda: fs.info(path))["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def version(url: str) -> str:
    """What tells a file from another that is put in its place: its size, and its mark in the store.

    Raises FileNotFoundError where there is none.
    """
    fs, path = split(url)
    info = attempt(fs, url, "looked up", lambda: fs.info(path))
    marks = ("ETag", "etag", "generation", "mtime", "created")
    return f"{info['size']} {next((info[mark] for mark in marks if info.get(mark)), '')}"


def open_read(url: str, *, read_ahead: int = 0) -> BinaryIO:
    """A seekable file, read in ranges: each read is one request for its bytes, and `read_ahead` more."""
    if url.endswith("/"):
        raise FileNotFoundError(f"{url}: no file's name ends in /")
    fs, path = split(url)
    if is_local(fs):
        return cast(BinaryIO, fs.open(path, "rb"))
    file = attempt(fs, url, "read", lambda: _open_ranged(fs, path, read_ahead))
    return cast(BinaryIO, _RemoteFile(fs, url, file))


def read_text(url: str) -> str:
    """A small file at once, which may be overwritten at that moment: `open_read` would call it expired."""
    fs, path = split(url)
    return bytes(attempt(fs, url, "read", lambda: fs.cat_file(path))).decode()


def remove(url: str) -> None:
    """Removes one file; that it is gone already is no error, for a repeated task tidies again."""
    fs, path = split(url)
    try:
        attempt(fs, url, "removed", lambda: fs.rm_file(path))
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
    upload, which the store shows when it is complete. On other stores: an upload that is renamed.
    """
    fs, path = split(url)
    if is_local(fs):
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        neighbour = _neighbour(folder, name)
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
        with tempfile.NamedTemporaryFile() as temporary:
            yield temporary  # type: ignore[misc]
            temporary.flush()
            _upload(fs, url, temporary.name, path)


def write_text(url: str, text: str) -> None:
    """A file of UTF-8 text, which appears whole."""
    write_bytes(url, text.encode())


def write_bytes(url: str, content: bytes) -> None:
    """A file, which appears whole."""
    with write_whole(url) as file:
        file.write(content)


def _neighbour(folder: str, name: str) -> str:
    return f"{folder}/.{name}.{uuid.uuid4().hex[:8]}{LEFTOVER_SUFFIX}"


def _upload(fs: AbstractFileSystem, url: str, source: str, path: str) -> None:
    """Sends a local file; each try sends it from its beginning."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    try:
        if protocols & SHOW_WHOLE_UPLOADS:
            attempt(fs, url, "written", lambda: fs.put_file(source, path))
        else:
            folder, name = posixpath.split(path)
            neighbour = _neighbour(folder, name)
            attempt(fs, url, "written", lambda: fs.makedirs(folder, exist_ok=True))
            attempt(fs, url, "written", lambda: fs.put_file(source, neighbour))
            attempt(fs, url, "written", lambda: fs.mv(neighbour, path))
            # HDFS renames onto no file that is there, and its client does not say so.
            if _kind_in_store(fs, url, neighbour):
                remove(url)
                attempt(fs, url, "written", lambda: fs.mv(neighbour, path))
                if _kind_in_store(fs, url, neighbour):
                    raise StorageError(redact(f"{url}: cannot be written: the store renames no file to it"))
    except FileNotFoundError as error:
        raise StorageError(f"{error}; {NO_BUCKET}") from error
    fs.invalidate_cache()


def _open_ranged(fs: AbstractFileSystem, path: str, read_ahead: int) -> Any:
    if read_ahead:
        return fs.open(path, "rb", block_size=read_ahead, cache_type="readahead")
    return fs.open(path, "rb", cache_type="none")


class _RemoteFile(io.RawIOBase):
    """A remote file whose reads try transient errors again; a failed read does not move the position.

    Arrow reads from threads of its own, in which they are as patient as where the file was opened.
    """

    def __init__(self, fs: AbstractFileSystem, url: str, file: Any) -> None:
        self._fs, self._url, self._file = fs, url, file
        self._patience = retries.patience()

    def read(self, size: int | None = -1) -> bytes:
        with self._patience():
            return bytes(
                attempt(self._fs, self._url, "read", lambda: self._file.read(-1 if size is None else size))
            )

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def attempt(fs: AbstractFileSystem, url: str, done: str, operation: Callable[[], T]) -> T:
    """The operation's result after bounded retries; its error in words, unless it is about a local file."""

    def again(error: str) -> None:
        if error == retries.UNAUTHORIZED or error in retries.NO_IDENTITY:
            retries.log_in_again(fs)

    try:
        return retries.retried(operation, url, again)
    except Exception as error:
        if is_local(fs):
            raise
        raise _in_words(error, url, done) from error


def _in_words(error: Exception, url: str, done: str) -> OSError:
    told = " ".join(str(error).split()) or type(error).__name__
    message = redact(f"{url}: cannot be {done}: {told}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return FileNotFoundError(message)
    if label := retries.name(error):
        return StorageError(
            f"{message} ({label}, tried again and again); check that the store is up and can be reached, "
            "then give the same command again: it goes on where it stopped"
        )
    if _is_refusal(error):
        public = "; for a public bucket: {gs: {token: anon}}" if url.startswith("gs:") else ""
        return StorageError(
            f"{message}; check the credentials in this process's environment or the job's `storage`, and "
            f"that they may list, read and write there{public}"
        )
    return StorageError(
        f"{message}; no transient error, so not tried again: mend it, then give the command again"
    )


def _is_refusal(error: Exception) -> bool:
    words = ("forbidden", "access denied", "credentials", "unauthorized", "anonymous caller")
    refused = isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403)
    return refused or any(word in str(error).lower() for word in words)
