"""What a file of an input is: by its name, and by its first bytes where the name does not say.

Left out, whatever it holds: what operating systems and writers of tables put beside data, hidden temporary
files, and shards (`.parquet`, `.tar`) whose name, or that of a folder they are in, begins with `_` or `.`, as
people and Spark take one out. Pictures of such names are pictures.
"""

from __future__ import annotations

import posixpath
from typing import Literal, NamedTuple

from pipeline.pictures.images import SUFFIXES, looks_like_image

Kind = Literal["parquet", "tar", "images"]


class ShardKind(NamedTuple):
    """A kind of file that holds many rows. at, mark: where a file of it has which bytes."""

    kind: Kind
    at: int
    mark: bytes


SHARD_KINDS = {".parquet": ShardKind("parquet", 0, b"PAR1"), ".tar": ShardKind("tar", 257, b"ustar")}
HEAD = 265  # first bytes that tell a kind; the mark of a tar is the last
ALLOWED = f".parquet, .tar, and pictures by name ({' '.join(SUFFIXES)}) or first bytes"

OF_SYSTEMS = "files of operating systems (.DS_Store, Thumbs.db, __MACOSX)"
OF_TABLES = "marks of programs that write tables (_SUCCESS, _metadata, .crc)"
TEMPORARY = "hidden temporary files (.NAME.tmp)"
TAKEN_OUT = "shards taken out by a name, or a folder's name, that begins with _ or ."
UNKNOWN = "neither name nor first bytes are those of a picture, a Parquet file or a tar"

_SYSTEMS = {".ds_store", "thumbs.db", "desktop.ini", "__macosx"}
_TABLES = {"_success", "_metadata", "_common_metadata"}
_COMPRESSED = {  # endings and first bytes, by what decompresses them
    "gunzip": ((".gz", ".tgz"), b"\x1f\x8b"),
    "bunzip2": ((".bz2", ".tbz2"), b"BZh"),
    "unxz": ((".xz", ".txz"), b"\xfd7zXZ"),
    "unzstd": ((".zst", ".tzst"), b"(\xb5/\xfd"),
    "unzip": ((".zip",), b"PK\x03\x04"),
    "unrar": ((".rar",), b"Rar!"),
    "7z x": ((".7z",), b"7z\xbc\xaf\x27\x1c"),
}
_OTHERS = {
    "text": (
        *(
            ".txt",
            ".json",
            ".jsonl",
            ".ndjson",
            ".csv",
            ".tsv",
            ".xml",
            ".html",
            ".htm",
            ".md",
            ".rst",
            ".log",
        ),
        *(".yaml", ".yml", ".toml", ".ini", ".cfg", ".py", ".sh", ".ipynb", ".srt", ".vtt", ".svg", ".xmp"),
    ),
    "arrays, tables and weights of other programs": (
        *(".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth", ".safetensors", ".h5", ".hdf5", ".mat", ".arrow"),
        *(".feather", ".orc", ".avro", ".tfrecord", ".mdb", ".lmdb", ".db", ".sqlite", ".cls"),
    ),
    "documents, sound and video": (
        *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".mp3", ".wav", ".flac", ".ogg"),
        *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4a", ".m4v"),
    ),
    "raw files of cameras, to be developed first": (  # TIFF by their first bytes, with a thumbnail in front
        *(".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".nrw", ".3fr"),
    ),
}


def _compressed(tool: str) -> str:
    return f"compressed: decompress it with {tool} first"


_REASONS = {ending: reason for reason, endings in _OTHERS.items() for ending in endings} | {
    ending: _compressed(tool) for tool, (endings, _) in _COMPRESSED.items() for ending in endings
}


def ending(name: str) -> str:
    """'a/b.tar.GZ' -> '.gz'; '' where the last part of a path has no dot."""
    _, dot, rest = posixpath.basename(name).rpartition(".")
    return dot + rest.lower()


def by_convention(name: str) -> str | None:
    """Why a path below an input's folder is left out, whatever the file holds; None where it is not."""
    parts = name.lower().split("/")
    if not _SYSTEMS.isdisjoint(parts) or parts[-1].startswith("._"):
        return OF_SYSTEMS
    if parts[-1] in _TABLES or ending(name) == ".crc":
        return OF_TABLES
    if parts[-1].startswith(".") and ending(name) == ".tmp":
        return TEMPORARY
    return TAKEN_OUT if ending(name) in SHARD_KINDS and is_taken_out(name) else None


def is_taken_out(name: str) -> bool:
    """Whether a shard of this path below an input's folder is left out."""
    return any(part.startswith((".", "_")) and part not in (".", "..") for part in name.split("/"))


def by_name(name: str) -> Kind | None:
    """The kind that a name's ending says, in any case of letters."""
    if ending(name) in SUFFIXES:
        return "images"
    return SHARD_KINDS[ending(name)].kind if ending(name) in SHARD_KINDS else None


def reason_by_name(name: str) -> str | None:
    """Why a file of no kind is left out, where its ending says what it is."""
    return _REASONS.get(ending(name))


def by_content(head: bytes) -> Kind | None:
    """The kind of a file by its first `HEAD` bytes."""
    for shard in SHARD_KINDS.values():
        if head.startswith(shard.mark, shard.at):
            return shard.kind
    return "images" if looks_like_image(head) else None


def reason_by_content(head: bytes) -> str:
    """Why a file of no kind is left out, by its first bytes."""
    return _compressed(tool) if (tool := decompressor(head)) else UNKNOWN


def decompressor(head: bytes) -> str | None:
    """What decompresses a file that begins so; None for one that is not compressed."""
    return next((tool for tool, (_, start) in _COMPRESSED.items() if head.startswith(start)), None)
