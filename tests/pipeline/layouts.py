"""Image files made number by number, so that what they hold is known without any decoder."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

Tags = Mapping[int, tuple[str, Sequence[int]]]  # tag: its struct code, H or I, and its values


def packed(rows: np.ndarray, bits: int, order: str = ">") -> list[bytes]:
    """Each row of (H, ...) unsigned integers, its numbers one behind the other, the highest bit first."""
    if bits == 16:
        return [row.astype(f"{order}u2").tobytes() for row in rows]
    places = np.arange(bits - 1, -1, -1)
    return [np.packbits(((row.reshape(-1, 1) >> places) & 1).astype(np.uint8)).tobytes() for row in rows]


def tiff(width: int, height: int, tags: Tags, strips: Sequence[bytes], order: str = "<") -> bytes:
    """A TIFF file of a strip for each of its planes."""
    lengths = [len(strip) for strip in strips]
    entries = dict(tags) | {256: ("I", [width]), 257: ("I", [height]), 278: ("I", [height])}
    entries |= {273: ("I", lengths), 279: ("I", lengths)}
    start = 8 + 2 + 12 * len(entries) + 4  # of the values that do not fit into an entry
    longer = {
        tag: 2 * len(values) if code == "H" else 4 * len(values) for tag, (code, values) in entries.items()
    }
    offset = start + sum(size for size in longer.values() if size > 4)
    entries[273] = ("I", [offset + sum(lengths[:number]) for number in range(len(strips))])
    directory, values_behind = b"", b""
    for tag, (code, values) in sorted(entries.items()):
        content = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(content) > 4:
            content, values_behind = (
                struct.pack(f"{order}I", start + len(values_behind)),
                values_behind + content,
            )
        kind = {"H": 3, "I": 4}[code]
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return head + directory + bytes(4) + values_behind + b"".join(strips)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png(
    values: np.ndarray, bits: int, colour: int, before: bytes = b"", *, interlaced: bool = False
) -> bytes:
    """A PNG file of (H, W, channels), not filtered. colour: PNG's number. before: chunks."""
    height, width = values.shape[:2]
    passes = [values[y::down, x::across] for x, y, across, down in ADAM7] if interlaced else [values]
    rows = b"".join(b"\0" + row for part in passes for row in packed(part, bits))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bmp(
    width: int,
    height: int,
    bits: int,
    pixels: bytes,
    *,
    compression: int = 0,
    palette: np.ndarray | None = None,
    masks: Sequence[int] = (),
    header: int = 40,
) -> bytes:
    """A BMP file. height: negative where the first row is on top. masks: of red, green, blue, alpha."""
    colours = (
        b"" if palette is None else np.pad(palette[:, ::-1], ((0, 0), (0, 1))).astype(np.uint8).tobytes()
    )
    count = 0 if palette is None else len(palette)
    sizes = (header, width, height, 1, bits, compression, len(pixels), 0, 0, count, 0)
    start = struct.pack("<IiiHHIIiiII", *sizes) + struct.pack(f"<{len(masks)}I", *masks)
    start = start.ljust(header, b"\0") + colours
    offset = 14 + len(start)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + start + pixels


def bmp_rows(rows: Sequence[bytes]) -> bytes:
    """The lowest first, each filled up to four bytes."""
    return b"".join(row + bytes(-len(row) % 4) for row in reversed(rows))
