"""Real files of every kind that a job reads, and damage to them: the same for the same seed and number."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from PIL import Image
from skimage import data

SIDE = 24  # pixels of the pictures
ROWS = 6  # of a shard
EDITS = (1, 1, 2, 4)  # to one file
NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    10**5,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
)

KINDS = ("png", "jpeg", "webp", "tiff", "bmp", "gif", "jp2", "avif", "parquet", "tar", "mask", "kernel")


def damaged(seed: int, number: int) -> tuple[str, bytes]:
    """The kind of the `number`-th file, and its bytes after a few edits."""
    source = random.Random(f"{seed}-{number}")
    kind = KINDS[number % len(KINDS)]
    originals = files()[kind]
    content = bytearray(source.choice(originals))
    for _ in range(source.choice(EDITS)):
        source.choice(_EDITS)(content, source.choice(originals), source)
    if source.random() < 0.5:  # let half of them past the checks that are only sums
        content = _with_right_sums(content)
    return kind, bytes(content)


def _flip(content: bytearray, other: bytes, source: random.Random) -> None:
    if content:
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)


def _put_number(content: bytearray, other: bytes, source: random.Random) -> None:
    size = source.choice((1, 2, 4, 8))
    value = source.choice(NUMBERS) % 256**size
    at = source.randrange(len(content) + 1)
    content[at : at + size] = value.to_bytes(size, source.choice(("little", "big")))


def _cut(content: bytearray, other: bytes, source: random.Random) -> None:
    del content[source.randrange(len(content) + 1) :]


def _drop(content: bytearray, other: bytes, source: random.Random) -> None:
    at = source.randrange(len(content) + 1)
    del content[at : at + source.randint(1, 64)]


def _repeat(content: bytearray, other: bytes, source: random.Random) -> None:
    at = source.randrange(len(content) + 1)
    content[at:at] = content[at : at + source.randint(1, 600)] * source.randint(1, 3)


def _clear(content: bytearray, other: bytes, source: random.Random) -> None:
    at = source.randrange(len(content) + 1)
    end = min(len(content), at + source.randint(1, 600))
    content[at:end] = bytes([source.choice((0, 255))]) * (end - at)


def _splice(content: bytearray, other: bytes, source: random.Random) -> None:
    """The end of another file of the kind."""
    content[source.randrange(len(content) + 1) :] = other[source.randrange(len(other)) :]


_Edit = Callable[[bytearray, bytes, random.Random], None]
_EDITS: tuple[_Edit, ...] = (
    _flip,
    _flip,
    _flip,
    _put_number,
    _put_number,
    _cut,
    _drop,
    _repeat,
    _clear,
    _splice,
)


def _with_right_sums(content: bytearray) -> bytearray:
    if content.startswith(b"\x89PNG"):
        at = 8
        while at + 12 <= len(content):
            end = at + 8 + int.from_bytes(content[at : at + 4], "big")
            content[end : end + 4] = struct.pack(">I", zlib.crc32(content[at + 4 : end]))
            at = end + 4
    elif content[257:262] == b"ustar":
        for at in range(0, len(content) - 511, 512):
            if content[at + 257 : at + 262] == b"ustar":
                content[at + 148 : at + 156] = b" " * 8
                content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return content


@lru_cache(maxsize=1)
def files() -> dict[str, list[bytes]]:
    """Undamaged files by kind."""
    photo = Image.fromarray(data.astronaut()).resize((SIDE, SIDE))
    clear = photo.copy()
    clear.putalpha(photo.convert("L"))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.asarray(photo.convert("L"), np.uint16) * 257
    mask = np.asarray(photo.convert("L")) > 100
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    return {
        "png": [
            _image(photo, "PNG", exif=exif),
            _image(clear, "PNG"),
            _image(photo.quantize(16), "PNG", transparency=0),
            _image(Image.fromarray(deep), "PNG", icc_profile=bytes(200)),
            bytes(imagecodecs.png_encode(np.asarray(clear, np.uint16) * 257)),
        ],
        "jpeg": [
            _image(photo, "JPEG", exif=exif),
            _image(photo, "JPEG", progressive=True),
            _image(photo.convert("CMYK"), "JPEG"),
            _image(photo.convert("L"), "JPEG", quality=95),
        ],
        "webp": [
            _image(photo, "WEBP"),
            _image(clear, "WEBP", lossless=True),
            _image(photo, "WEBP", save_all=True, append_images=[clear]),
        ],
        "tiff": [
            *(
                _image(photo, "TIFF", compression=name)
                for name in ("raw", "tiff_lzw", "tiff_deflate", "jpeg")
            ),
            _image(photo.convert("1"), "TIFF", compression="group4"),
            _image(photo, "TIFF", save_all=True, append_images=[clear]),
            _tiff(deep),
            _tiff(np.asarray(photo), tile=(16, 16), photometric="rgb", compression="zlib"),
            _tiff(np.moveaxis(np.asarray(photo), 2, 0), photometric="rgb", planarconfig="separate"),
            _tiff(deep // 16, bitspersample=12, photometric="miniswhite"),
            _tiff(np.asarray(clear, np.uint16), photometric="rgb", compression="lzw", predictor=True),
        ],
        "bmp": [_image(photo, "BMP"), _image(clear, "BMP"), _image(photo.quantize(16), "BMP")],
        "gif": [
            _image(photo.quantize(16), "GIF", transparency=0),
            _image(photo, "GIF", save_all=True, append_images=[clear]),
        ],
        "jp2": [
            _image(photo, "JPEG2000"),
            _image(clear, "JPEG2000", no_jp2=True),
            bytes(imagecodecs.jpeg2k_encode(deep // 16, bitspersample=12, codecformat="jp2")),
        ],
        "avif": [_image(photo, "AVIF"), _image(clear, "AVIF")],
        "parquet": _parquets(photo, mask, kernel),
        "tar": [
            _tar(photo, mask, kind) for kind in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
        ],
        "mask": [_npy(mask), _npy(mask.astype(np.float64)), _image(Image.fromarray(mask), "PNG")],
        "kernel": [
            _npy(kernel),
            _npy(np.asfortranarray(kernel.astype(np.float16))),
            _image(Image.fromarray((kernel * 255).astype(np.uint8)), "PNG"),
        ],
    }


def _image(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _parquets(photo: Image.Image, mask: np.ndarray, kernel: np.ndarray) -> list[bytes]:
    images = [_image(photo.rotate(90 * row), ("PNG", "JPEG")[row % 2]) for row in range(ROWS)]
    plain = {"key": [f"row {row}" for row in range(ROWS)], "image": images}
    rich = plain | {
        "image": [{"bytes": image, "path": "a/b.png"} for image in images],
        "mask": [mask.astype(np.float32).tolist()] * ROWS,
        "kernel": [_npy(kernel)] * ROWS,
        "prompt": ["a photograph", None, "", "ein Foto \u00fc", "\0", "x" * 300],
        "junk": [[{"deep": [[row, None]]}] for row in range(ROWS)],
    }
    views = pa.table(plain | {"key": pa.array(plain["key"], pa.large_string())})
    files = []
    for table, options in (
        (pa.table(plain), {"compression": "none", "row_group_size": 2}),
        (pa.table(plain), {"compression": "snappy", "data_page_version": "2.0"}),
        (pa.table(rich), {"compression": "zstd", "row_group_size": 4, "data_page_size": 2000}),
        (pa.table(rich), {"compression": "gzip", "store_schema": False, "use_dictionary": False}),
        (
            views,
            {"compression": "lz4", "column_encoding": {"key": "DELTA_BYTE_ARRAY"}, "use_dictionary": False},
        ),
    ):
        file = io.BytesIO()
        pq.write_table(table, file, **options)
        files.append(file.getvalue())
    return files


def _tar(photo: Image.Image, mask: np.ndarray, kind: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for row in range(ROWS):
            name = f"{'folder' * 14}/{'name' * 18}{row}" if row == 2 else f"folder/{row}"
            members = {
                ".png": _image(photo.rotate(90 * row), "PNG"),
                ".mask.npy": _npy(mask),
                ".txt": "a photograph \u00fc".encode(),
                ".json": b"{}",
            }
            for ending, content in members.items():
                info = tarfile.TarInfo(name + ending)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()
