"""Shards of images on any fsspec URL, and the rows in them.

| input            | shards                               | key of a row                             |
|------------------|--------------------------------------|------------------------------------------|
| Parquet file     | one a file                           | column `key`, or the one named           |
| WebDataset tar   | one a file                           | a picture's path without its ending      |
| folder of images | IMAGES_PER_SHARD each, sorted by path | path below the folder                    |

A shard is named by its path below the input's folder (the part before the first wildcard), with `/` written
as `--` and without its ending; the images of a folder are `<folder>-00000`, `<folder>-00001`, ... A file's
shard keeps its name whatever else the input lists.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pipeline import limits, storage
from pipeline.images import SUFFIXES as IMAGE_SUFFIXES
from pipeline.messages import describe, is_text, readable
from pipeline.parquet_source import parquet_keys, parquet_rows
from pipeline.rows import AS_STORED, InputRow, Inventory, LeftOut, Reading, SourceError
from pipeline.tar_source import Samples, tar_inventory, tar_rows, tar_samples

IMAGES_PER_SHARD = 256

Kind = Literal["parquet", "tar", "images"]


class Listing(NamedTuple):
    """shards: by name, sorted. left_out: files of the input that are in none of them."""

    shards: list[Shard]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Shard:
    """name: unique in a run. url: the file, or the folder of `files`. files: paths below it, of images."""

    name: str
    kind: Kind
    url: str
    files: tuple[str, ...] = ()
    reading: Reading = AS_STORED


def list_shards(inputs: Sequence[str], reading: Reading = AS_STORED) -> list[Shard]:
    """The shards of `listing`, for those who need no account of what is left out."""
    return listing(inputs, reading).shards


def listing(inputs: Sequence[str], reading: Reading = AS_STORED) -> Listing:
    """The shards of files, globs and folders (searched recursively), and the files that are in none.

    Raises SourceError, with every problem at once, for an input where there is nothing, a folder that mixes
    kinds, and two shards of one name.
    """
    shards: list[Shard] = []
    problems: list[str] = []
    for url in inputs:
        try:
            shards += _shards_of(url)
        except SourceError as error:
            problems.append(str(error))
    by_name = defaultdict(list)
    for shard in shards:
        by_name[shard.name].append(shard.url)
    problems += [
        f"shard name {name!r} belongs to {' and '.join(urls)}; rename one, or give each its own output"
        for name, urls in sorted(by_name.items())
        if len(urls) > 1
    ]
    if problems:
        raise SourceError("\n".join(problems))
    shards = [replace(shard, reading=reading) for shard in shards]
    return Listing(sorted(shards, key=lambda shard: shard.name), ())


def inventory(shard: Shard) -> Inventory:
    """The keys of a shard and what of it becomes no row, in one pass over its headers.

    Raises SourceError where the keys cannot be known, StorageError where the store cannot be reached.
    """
    found = _stored(shard)
    keys = [shard.reading.key_of(shard.name, row, key) for row, key in enumerate(found.keys)]
    return replace(found, keys=keys)


def _stored(shard: Shard) -> Inventory:
    """With the keys as they stand in the shard."""
    if shard.kind == "parquet":
        return Inventory(parquet_keys(shard.url, shard.reading))
    if shard.kind == "tar":
        return tar_inventory(shard.url)
    return Inventory(list(shard.files))


def keys(shard: Shard) -> list[object]:
    """The key of each row, in order; None, or what is no text, where there is none."""
    return inventory(shard).keys


def rows(
    shard: Shard, wanted: Sequence[bool], samples: Callable[[str], Samples] = tar_samples
) -> Iterator[InputRow]:
    """The rows where `wanted` (one flag a row) is true, in order; a bounded number in memory.

    samples: of a tar, see `tar_rows`. A row that cannot be read comes with its `error` set.
    """
    numbers = (row for row, want in enumerate(wanted) if want)
    for number, row in zip(numbers, _stored_rows(shard, wanted, samples), strict=True):
        yield replace(row, key=str(shard.reading.key_of(shard.name, number, row.key)))


def _stored_rows(
    shard: Shard, wanted: Sequence[bool], samples: Callable[[str], Samples]
) -> Iterator[InputRow]:
    if shard.kind == "parquet":
        return parquet_rows(shard.url, shard.name, wanted, shard.reading)
    if shard.kind == "tar":
        return tar_rows(shard.url, shard.name, wanted, samples)
    return _image_rows(shard, wanted)


def _shards_of(url: str) -> list[Shard]:
    root, names = _files_of(url)
    kinds: dict[Kind, list[str]] = {
        "parquet": [name for name in names if name.endswith(".parquet")],
        "tar": [name for name in names if name.endswith(".tar")],
        "images": [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)],
    }
    found = [kind for kind, members in kinds.items() if members]
    if not found:
        raise SourceError(
            f"input {url}: none of its {len(names)} files is .parquet, .tar or an image "
            f"({' '.join(IMAGE_SUFFIXES)})"
        )
    if len(found) > 1:
        raise SourceError(
            f"input {url} mixes {' and '.join(found)}; name one kind, for example {url}/*.parquet"
        )
    if found == ["images"]:
        return list(_image_shards(root, kinds["images"]))
    return [
        Shard(_name_of(name.rsplit(".", 1)[0]), found[0], storage.join(root, name))
        for name in kinds[found[0]]
    ]


def _files_of(url: str) -> tuple[str, list[str]]:
    """The folder of an input and the sorted paths below it that the input means."""
    fs, path = storage.split(url)
    if re.search(r"[*?\[]", path):
        fixed = re.split(r"[*?\[]", path, maxsplit=1)[0]
        root = posixpath.dirname(fixed)
        paths = [_below(root, name) for name in storage.glob(url)]
    elif storage.is_file(url):
        root, name = posixpath.split(path)
        paths = [name]
    else:
        root = path
        paths = storage.find(fs.unstrip_protocol(path))
    visible = [name for name in paths if not any(part.startswith((".", "_")) for part in name.split("/"))]
    wrong = [name for name in visible if not is_text(name)]
    if wrong:
        raise SourceError(
            f"input {url}: the names of {len(wrong)} files are no UTF-8 text, such as {readable(wrong[0])}; "
            "rename them"
        )
    return fs.unstrip_protocol(root), sorted(visible)


def _below(root: str, path: str) -> str:
    return path[len(root) :].lstrip("/")


def _name_of(path: str) -> str:
    return path.replace("/", "--")


def _image_shards(root: str, names: Sequence[str]) -> Iterator[Shard]:
    folder = posixpath.basename(root.rstrip("/")) or "images"
    for number, start in enumerate(range(0, len(names), IMAGES_PER_SHARD)):
        files = tuple(names[start : start + IMAGES_PER_SHARD])
        yield Shard(f"{folder}-{number:05d}", "images", root, files)


def _image_rows(shard: Shard, wanted: Sequence[bool]) -> Iterator[InputRow]:
    for name, want in zip(shard.files, wanted, strict=True):
        if want:
            yield _read_image(shard, name)


def _read_image(shard: Shard, name: str) -> InputRow:
    try:
        with storage.open_read(storage.join(shard.url, name)) as file:
            data = file.read(limits.CELL_BYTES + 1)
    except storage.StorageError:
        raise  # a store out of reach is no fault of the row
    except OSError as error:
        return InputRow.failed(name, shard.name, f"cannot read the file: {describe(error)}")
    if len(data) > limits.CELL_BYTES:
        return InputRow.failed(name, shard.name, f"file too large: more than {limits.CELL_BYTES:,} bytes")
    return InputRow(key=name, source_shard=shard.name, image=data)
