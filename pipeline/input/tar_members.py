"""The members of a tar by their headers, which are not trusted, and their bytes."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline import limits
from pipeline.input.rows import SourceError
from pipeline.messages import describe
from pipeline.pictures.images import HEAD, looks_like_image
from pipeline.pictures.kinds import decompressor
from pipeline.stores import storage

REST_AT_ONCE = 2**20  # bytes of what follows the archive
MEMBER_BYTES = 400  # of memory that a member takes beside its name, about


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name as valid text, and where its data is.

    plain: no link, device or sparse file. image: whether its first bytes are those of a picture.
    """

    name: str
    offset: int
    size: int
    plain: bool
    image: bool


def data_of(file: BinaryIO, member: Member) -> bytes:
    """The bytes of a member. Raises ValueError where they are not in the tar, or too many."""
    if not member.plain:
        raise ValueError(
            f"no plain file: {member.name} is a link, a device or sparse in the tar; store its bytes"
        )
    if member.size > limits.CELL_BYTES:
        raise ValueError(
            f"tar member too large: {member.name} has {member.size:,} bytes; at most {limits.CELL_BYTES:,}"
        )
    file.seek(member.offset)
    data = file.read(member.size)
    if len(data) < member.size:
        raise ValueError(f"tar is cut short: {member.name} has {len(data):,} of its {member.size:,} bytes")
    return data


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


def members(file: BinaryIO, url: str, in_a_row: Callable[[Member], bool]) -> Iterator[Member]:
    """All files in order, by headers and first bytes; the lists that tarfile keeps are emptied.

    A tar cut short inside the data of a row's member ends with that member, whose row then says so. Raises
    SourceError for one that is cut or damaged elsewhere, where rows unknown may be lost.
    """
    end = _size(file)
    try:
        _refuse_compressed(file)
        with tarfile.open(fileobj=_Headers(file), mode="r:", encoding="utf-8") as tar:  # type: ignore[call-overload]
            position = -1
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= position:
                    raise ValueError(f"the header of {_name(member)} points backwards")
                position = tar.offset
                tar.members.clear()
                tar.pax_headers.clear()
                found = _member(file, member)
                if not member.isdir():
                    yield found
                stored_until = position if member.issparse() else member.offset_data + member.size
                if end < stored_until and not member.isdir() and in_a_row(found):
                    return
                if end < stored_until:
                    raise ValueError(f"it is cut short in {found.name}")
            _check_end(file, tar.offset)
    except storage.StorageError:
        raise  # a store out of reach is no fault of the tar
    except Exception as error:  # damaged headers make tarfile raise TarError, ValueError, OverflowError, ...
        raise SourceError(f"{url}: cannot be read as tar: {describe(error)}") from error


def _refuse_compressed(file: BinaryIO) -> None:
    tool = decompressor(file.read(HEAD))
    file.seek(0)
    if tool:
        raise ValueError(
            f"it is compressed, and its rows are read in any order, for which it has to be plain: "
            f"{tool} < FILE > PLAIN.tar"
        )


def _member(file: BinaryIO, member: tarfile.TarInfo) -> Member:
    plain = member.isreg() and not member.issparse()
    head = b""
    if plain:
        file.seek(member.offset_data)
        head = file.read(min(HEAD, member.size))
    return Member(_name(member), member.offset_data, member.size, plain, looks_like_image(head))


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
