"""Rows of a WebDataset tar: neighbouring members of one key are one row.

`<key>.jpg` (or another image ending) is the image, `<key>.mask.png` and `<key>.kernel.png` (or `.npy`) are
what an operator needs, `<key>.txt` the prompt; others are passed over. Nothing is unpickled.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import BinaryIO

from pipeline import storage
from pipeline.images import SUFFIXES as IMAGE_SUFFIXES
from pipeline.rows import InputRow, SourceError

MAX_MEMBER_BYTES = 256 * 2**20
ARRAY_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")


def tar_keys(url: str) -> Iterator[str]:
    """The keys in order. Raises SourceError where the file is no tar or a header is damaged."""
    with storage.open_read(url, read_ahead=storage.READ_AHEAD) as file:
        for key, _ in _samples(file, url):
            yield key


def tar_rows(url: str, shard: str, wanted: Sequence[bool]) -> Iterator[InputRow]:
    """The wanted rows; members of the others are skipped without reading them."""
    with storage.open_read(url, read_ahead=storage.READ_AHEAD) as file:
        for (key, members), want in zip(_samples(file, url), wanted, strict=True):
            if want:
                try:
                    yield _row(file, key, members, shard)
                except storage.StorageError:
                    raise  # a store out of reach is no fault of the row
                except (ValueError, OSError) as error:
                    yield InputRow(key=key, source_shard=shard, error=str(error))


def _samples(file: BinaryIO, url: str) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    for key, members in groupby(_members(file, url), key=lambda member: _split(member.name)[0]):
        yield key, list(members)


def _members(file: BinaryIO, url: str) -> Iterator[tarfile.TarInfo]:
    """Headers only, one at a time; the list that tarfile keeps is emptied, so that memory stays flat.

    A tar cut short inside a member's data ends with that member, whose row then says so.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                if member.isfile() and _role(_split(member.name)[1]) is not None:
                    yield member
                if _size(file) < member.offset_data + member.size:
                    return
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise SourceError(f"{url}: the tar header at byte {tar.offset} is damaged")
    except tarfile.TarError as error:
        raise SourceError(f"{url}: cannot be read as tar: {error}") from error


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
        role = _role(_split(member.name)[1])
        if role in found:
            raise ValueError(f"two members for one {role}: {member.name} is the second")
        found[str(role)] = _data(file, member)
    prompt = found.get("prompt")
    return InputRow(
        key=key,
        source_shard=shard,
        image=found.get("image"),
        mask=found.get("mask"),
        kernel=found.get("kernel"),
        prompt=None if prompt is None else prompt.decode().strip(),
    )


def _data(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_MEMBER_BYTES:
        raise ValueError(
            f"tar member too large: {member.name} has {member.size:,} bytes; at most {MAX_MEMBER_BYTES:,}"
        )
    position = file.tell()
    file.seek(member.offset_data)
    data = file.read(member.size)
    file.seek(position)
    if len(data) < member.size:
        raise ValueError(f"tar is cut short: {member.name} has {len(data):,} of its {member.size:,} bytes")
    return data
