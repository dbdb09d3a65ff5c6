"""Rows of a WebDataset tar: neighbouring members of one key are one row.

`<key>.jpg` (or another image ending) is the image, `<key>.mask.png` and `<key>.kernel.png` (or `.npy`) are
what an operator needs, `<key>.txt` the prompt; others are passed over. Nothing is unpickled, and nothing is
written anywhere: a name is only ever part of a key, whatever path it spells.
"""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from typing import BinaryIO

from pipeline import limits, storage
from pipeline.images import SUFFIXES as IMAGE_SUFFIXES
from pipeline.messages import describe
from pipeline.rows import InputRow, SourceError

MEMBERS_OF_A_ROW = 8  # kept at most; more than the four roles are an error already
REST_AT_ONCE = 2**20  # bytes of what follows the archive
Samples = list[tuple[str, list[tarfile.TarInfo]]]
ARRAY_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")


def tar_keys(url: str) -> Iterator[str]:
    """The keys in order. Raises SourceError where the file is no whole tar, or they are beyond KEYS_BYTES."""
    size = 0
    with storage.open_read(url, read_ahead=storage.READ_AHEAD) as file:
        for key, _ in _samples(file, url):
            size += len(key)
            if size > limits.KEYS_BYTES:
                raise SourceError(
                    f"{url}: its keys take more than {limits.KEYS_BYTES:,} bytes; cut it into shards"
                )
            yield key


def tar_samples(url: str) -> Samples:
    """The key and the members of each row, by which `tar_rows` finds it without reading what is before it."""
    with storage.open_read(url, read_ahead=storage.READ_AHEAD) as file:
        return list(_samples(file, url))


def tar_rows(
    url: str, shard: str, wanted: Sequence[bool], samples: Callable[[str], Samples] = tar_samples
) -> Iterator[InputRow]:
    """The wanted rows. samples: `tar_samples`, or what remembers its results for the next rows of the tar."""
    found = samples(url)
    with storage.open_read(url, read_ahead=storage.READ_AHEAD) as file:
        for (key, members), want in zip(found, wanted, strict=True):
            if want:
                try:
                    yield _row(file, key, members, shard)
                except storage.StorageError:
                    raise  # a store out of reach is no fault of the row
                except (ValueError, OSError) as error:
                    yield InputRow.failed(key, shard, describe(error))


def _samples(file: BinaryIO, url: str) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    for key, members in groupby(_members(file, url), key=lambda member: _split(_name(member))[0]):
        yield key, list(islice(members, MEMBERS_OF_A_ROW))


_LONG_NUMBER = re.compile(rb"\d{1000}")


class _Headers:
    """The file as tarfile sees it. It reads as many bytes as a header claims, so claims are bounded here."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= limits.TAR_HEADER_BYTES:
            raise ValueError(f"a header claims {size:,} bytes; at most {limits.TAR_HEADER_BYTES:,}")
        data = self._file.read(size)
        if _LONG_NUMBER.search(data):  # the time that tarfile takes grows with the square of its length
            raise ValueError("a header holds a number of a thousand digits")
        return data


def _members(file: BinaryIO, url: str) -> Iterator[tarfile.TarInfo]:
    """Headers only, one at a time; the lists that tarfile keeps are emptied, so that memory stays flat.

    A tar cut short inside the data of a row's member ends with that member, whose row then says so. Raises
    SourceError for one that is cut or damaged elsewhere, where rows unknown may be lost.
    """
    end = _size(file)
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:", encoding="utf-8") as tar:  # type: ignore[call-overload]
            position = -1
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= position:
                    raise ValueError(f"the header of {_name(member)} points backwards")
                position = tar.offset
                tar.members.clear()
                tar.pax_headers.clear()
                in_a_row = not member.isdir() and _role(_split(_name(member))[1]) is not None
                if in_a_row:
                    yield member
                stored_until = position if member.issparse() else member.offset_data + member.size
                if end < stored_until and in_a_row:
                    return
                if end < stored_until:
                    raise ValueError(f"it is cut short in {_name(member)}")
            _check_end(file, tar.offset)
    except Exception as error:  # damaged headers make tarfile raise TarError, ValueError, OverflowError, ...
        raise SourceError(f"{url}: cannot be read as tar: {describe(error)}") from error


def _check_end(file: BinaryIO, position: int) -> None:
    """Raises ValueError where a tar does not end with zeros: tarfile takes a damaged header for the end."""
    file.seek(position)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise ValueError(f"the header at byte {position} is damaged")
    if len(block) < tarfile.BLOCKSIZE:
        raise ValueError("it is cut short: the blocks that end a tar are missing")
    while rest := file.read(REST_AT_ONCE):
        if rest.strip(b"\0"):
            raise ValueError(
                f"more follows its end at byte {position}; a header is damaged, or it is two tars"
            )


def _name(member: tarfile.TarInfo) -> str:
    """A member's name as valid text: bytes that are no UTF-8 are written as escapes."""
    return member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _size(file: BinaryIO) -> int:
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(position)
    return size


def _split(name: str) -> tuple[str, str]:
    """'a/b.mask.png' -> ('a/b', '.mask.png'): WebDataset's rule, the first dot of the last part."""
    folder, base = posixpath.split(name)
    stem, dot, rest = base.partition(".")
    return posixpath.join(folder, stem), dot + rest.lower()


def _role(ending: str) -> str | None:
    if ending == ".txt":
        return "prompt"
    for role in ("mask", "kernel"):
        if ending.startswith(f".{role}.") and ending.endswith(ARRAY_SUFFIXES):
            return role
    return "image" if ending in IMAGE_SUFFIXES else None


def _row(file: BinaryIO, key: str, members: list[tarfile.TarInfo], shard: str) -> InputRow:
    found: dict[str, bytes] = {}
    for member in members:
        role = _role(_split(_name(member))[1])
        if role in found:
            raise ValueError(f"two members for one {role}: {_name(member)} is the second")
        found[str(role)] = _data(file, member)
    prompt = found.get("prompt")
    return InputRow(
        key=key,
        source_shard=shard,
        image=found.get("image"),
        mask=found.get("mask"),
        kernel=found.get("kernel"),
        prompt=None if prompt is None else _text(prompt),
    )


def _text(data: bytes) -> str:
    try:
        return data.decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt is no UTF-8 text: {error.reason} at byte {error.start}") from error


def _data(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if not member.isreg() or member.issparse():
        raise ValueError(
            f"no plain file: {_name(member)} is a link, a device or sparse in the tar; store its bytes"
        )
    if member.size > limits.CELL_BYTES:
        raise ValueError(
            f"tar member too large: {_name(member)} has {member.size:,} bytes; at most {limits.CELL_BYTES:,}"
        )
    position = file.tell()
    file.seek(member.offset_data)
    data = file.read(member.size)
    file.seek(position)
    if len(data) < member.size:
        raise ValueError(f"tar is cut short: {_name(member)} has {len(data):,} of its {member.size:,} bytes")
    return data
