"""Files inside a binary resource collection of Qt (``.rcc``, "qres")."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

DEFLATED, FOLDER, ZSTD = 1, 2, 4  # flags of an entry


def read_resources(path: Path) -> dict[str, bytes]:
    """The files of the collection by their path inside it.

    Raises ValueError when ``path`` is no such collection, or one of its files is packed with Zstandard.
    """
    content = path.read_bytes()
    if content[:4] != b"qres":
        raise ValueError(f"{path} starts with {content[:4]!r}: a Qt resource collection starts with b'qres'")
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    entry_size = 22 if version >= 2 else 14

    def name(offset: int) -> str:
        (length,) = struct.unpack_from(">H", content, names + offset)
        start = names + offset + 6  # the length, two bytes, and a hash, four
        return content[start : start + 2 * length].decode("utf-16-be")

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        entry = tree + index * entry_size
        name_offset, flags = struct.unpack_from(">IH", content, entry)
        inside = f"{folder}/{name(name_offset)}" if index else ""  # the first entry is the nameless root
        if flags & FOLDER:
            count, first = struct.unpack_from(">II", content, entry + 6)
            for child in range(first, first + count):
                yield from walk(child, inside)
            return
        if flags & ZSTD:
            raise ValueError(f"{path}: {inside} is packed with Zstandard; stored and deflated files are read")
        (offset,) = struct.unpack_from(">I", content, entry + 10)
        (size,) = struct.unpack_from(">I", content, data + offset)
        packed = content[data + offset + 4 : data + offset + 4 + size]
        yield inside.removeprefix("/"), zlib.decompress(packed[4:]) if flags & DEFLATED else packed

    return dict(walk(0, ""))
