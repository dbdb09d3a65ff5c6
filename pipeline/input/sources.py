"""Shards of images on any fsspec URL, and the rows in them.

| input            | shards                               | key of a row                             |
|------------------|--------------------------------------|------------------------------------------|
| Parquet file     | one a file                           | column `key`, or the one named           |
| WebDataset tar   | one a file                           | a picture's path without its ending      |
| folder of images | IMAGES_PER_SHARD each, sorted by path | path below the folder                    |

A shard is named by its path below the input's folder (the part before the first wildcard), with `/` written
as `--` and without its ending; the images of a folder are `<folder>-00000`, `<folder>-00001`, ... A file's
shard keeps its name whatever else the input lists. A name too long for a file is cut, with a hash of it all.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress
from typing import NamedTuple

from pipeline.input import files
from pipeline.input.files import Files, Passed
from pipeline.input.folder_rows import Paths, image_rows, paths_of_rows
from pipeline.input.mixtures import mixed
from pipeline.input.parquet_rows import parquet_keys, parquet_rows
from pipeline.input.rows import (
    AS_STORED,
    InputRow,
    Inventory,
    LeftOut,
    Reading,
    SourceError,
    changed,
    left_out,
    merged,
)
from pipeline.input.tar_rows import Samples, tar_inventory, tar_rows, tar_samples
from pipeline.messages import is_text, readable
from pipeline.pictures import kinds
from pipeline.pictures.kinds import Kind
from pipeline.stores import storage

IMAGES_PER_SHARD = 256
LONGEST_NAME = storage.NAME_BYTES - len(".parquet")  # bytes of a shard's name, which its files carry
NUMBER_BYTES = len("-1234567890")  # behind a folder's name


class Listing(NamedTuple):
    """shards: by name, sorted. left_out: files that are in none of them. linked: folders behind links."""

    shards: list[Shard]
    left_out: tuple[LeftOut, ...]
    linked: list[str]


@dataclass(frozen=True)
class Shard:
    """name: unique in a run. url: the file, or the folder of images. files: of images, each row's in it."""

    name: str
    kind: Kind
    url: str
    files: tuple[Paths, ...] = ()
    reading: Reading = AS_STORED


class Format(NamedTuple):
    """How shards of one kind are read: as `inventory` and `rows` are, with keys as they stand there."""

    inventory: Callable[[Shard], Inventory]
    rows: Callable[[Shard, Sequence[bool], Callable[[str], Samples]], Iterator[InputRow]]


FORMATS: dict[Kind, Format] = {
    "parquet": Format(
        lambda shard: Inventory(parquet_keys(shard.url, shard.reading)),
        lambda shard, wanted, _: parquet_rows(shard.url, shard.name, wanted, shard.reading),
    ),
    "tar": Format(
        lambda shard: tar_inventory(shard.url),
        lambda shard, wanted, samples: tar_rows(shard.url, shard.name, wanted, samples),
    ),
    "images": Format(
        lambda shard: Inventory([paths[0] for paths in shard.files]),
        lambda shard, wanted, _: image_rows(shard.url, shard.name, shard.files, wanted),
    ),
}


def list_shards(inputs: Sequence[str], reading: Reading = AS_STORED) -> list[Shard]:
    """The shards of `listing`, for those who need no account of what is left out."""
    return listing(inputs, reading).shards


def listing(inputs: Sequence[str], reading: Reading = AS_STORED) -> Listing:
    """The shards of files, globs and folders (searched recursively), and the files that are in none.

    Raises SourceError, with every problem at once, for an input where there is nothing, a folder that mixes
    kinds, and two shards of one name.
    """
    shards, passed, linked = list[Shard](), list[Passed](), list[str]()
    problems: list[str] = []
    for url in inputs:
        try:
            found = _shards_of(url)
            shards += found[0]
            passed += found[1]
            linked += found[2]
        except SourceError as error:
            problems += error.args
    problems += _same_names(shards)
    if problems:
        raise SourceError(*problems)
    shards = [replace(shard, reading=reading) for shard in shards]
    return Listing(sorted(shards, key=lambda shard: shard.name), left_out(passed), linked)


def _same_names(shards: Sequence[Shard]) -> Iterator[str]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for shard in shards:
        by_name[shard.name].append(shard.url)
    for name, urls in sorted(by_name.items()):
        if len(urls) > 1 and len(set(urls)) == 1:
            yield f"{urls[0]} is in more than one input; list it once, and of a folder one pattern"
        elif len(urls) > 1:
            where = " and ".join(urls)
            yield f"shard name {name!r} belongs to {where}; rename one, or give each its own output"


def inventory(shard: Shard) -> Inventory:
    """The keys of a shard and what of it becomes no row, in one pass over its headers.

    Raises SourceError where the keys cannot be known, StorageError where the store cannot be reached.
    """
    found = FORMATS[shard.kind].inventory(shard)
    keys = [shard.reading.key_of(shard.name, row, key) for row, key in enumerate(found.keys)]
    return replace(found, keys=keys)


def left_out_of(shards: Sequence[Shard]) -> tuple[LeftOut, ...]:
    """What of the shards becomes no row."""
    with ThreadPoolExecutor(files.FILES_AT_ONCE) as pool:
        return merged(one for found in pool.map(inventory, shards) for one in found.left_out)


def keys(shard: Shard) -> list[object]:
    """The key of each row, in order; None, or what is no text, where there is none."""
    return inventory(shard).keys


def rows(
    shard: Shard, wanted: Sequence[bool], samples: Callable[[str], Samples] = tar_samples
) -> Iterator[InputRow]:
    """The rows where `wanted` (one flag a row) is true, in order; a bounded number in memory.

    samples: of a tar, see `tar_rows`. A row that cannot be read comes with its `error` set.
    Raises SourceError where there are not as many rows as flags.
    """
    numbers = (row for row, want in enumerate(wanted) if want)
    stored = FORMATS[shard.kind].rows(shard, wanted, samples)
    for number, row in zip(numbers, stored, strict=True):
        yield replace(row, key=str(shard.reading.key_of(shard.name, number, row.key)))


def bare_rows(shard: Shard, wanted: Sequence[bool]) -> Iterator[InputRow]:
    """What `rows` gives, with nothing but the keys: no picture is read."""
    found = keys(shard)
    if len(found) != len(wanted):
        raise changed(shard.url)
    return (InputRow(str(key), shard.name) for key in compress(found, wanted))


def _shards_of(url: str) -> tuple[list[Shard], list[Passed], list[str]]:
    """The shards of one input, what of it is left out and why, and the folders behind its links."""
    found = files.files_of(url)
    names, sidecars, passed = files.by_kind(found)
    found_rows, unused = paths_of_rows(names["images"], sidecars)
    passed += unused
    held = [kind for kind in names if names[kind]]
    if not held:
        raise SourceError(_nothing(url, found, passed))
    if len(held) > 1:
        raise SourceError(f"input {url} {mixed(found.root, names)}")
    wrong = [name for name in names[held[0]] if not is_text(name)]
    if wrong:
        raise SourceError(
            f"input {url}: the names of {len(wrong)} files are no UTF-8 text, such as {readable(wrong[0])}; "
            "rename them"
        )
    if held == ["images"]:
        return list(_image_shards(found.root, found_rows)), passed, found.linked
    shards = [Shard(_name_of(name), held[0], storage.join(found.root, name)) for name in names[held[0]]]
    return shards, passed, found.linked


def _nothing(url: str, found: Files, passed: Sequence[Passed]) -> str:
    if not passed:
        return f"input {url}: the folder is empty"
    left = passed[0][0] if found.alone else "; ".join(str(one) for one in left_out(passed))
    return f"input {url}: nothing to restore: {left}. Allowed are {kinds.ALLOWED}"


def _name_of(path: str) -> str:
    stem = path[: -len(kinds.ending(path))] if kinds.by_name(path) else path
    return _short(stem.replace("/", "--"), LONGEST_NAME)


def _short(name: str, longest: int) -> str:
    """The name, or one of `longest` bytes that is its own as well, where no file could have it."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= longest and name not in ("", ".", ".."):
        return name
    mark = f"-{hashlib.sha256(encoded).hexdigest()[:16]}"
    return encoded[: longest - len(mark)].decode("utf-8", "ignore") + mark


def _image_shards(root: str, found: Sequence[Paths]) -> Iterator[Shard]:
    folder = _short(root.rstrip("/").rpartition("/")[2] or "images", LONGEST_NAME - NUMBER_BYTES)
    for number, start in enumerate(range(0, len(found), IMAGES_PER_SHARD)):
        files = tuple(found[start : start + IMAGES_PER_SHARD])
        yield Shard(f"{folder}-{number:05d}", "images", root, files)
