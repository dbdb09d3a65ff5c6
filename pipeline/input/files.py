"""The files that an input means, by kind: one file, a folder with all that is below it, or a glob of either.

A path that is there is that path, whatever `*`, `?` and `[` its name holds; only another is a glob. Links are
followed, to folders as well; a folder is entered once on a path, so that a link back does not go on for ever.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, get_args

from fsspec.utils import glob_translate

from pipeline.input.folder_rows import is_sidecar
from pipeline.input.rows import SourceError
from pipeline.messages import describe
from pipeline.pictures import kinds
from pipeline.pictures.kinds import Kind
from pipeline.stores import storage

FILES_AT_ONCE = 16  # whose first bytes are read: an object store is slow to answer one request
WRITTEN = ("metrics.parquet", "restored/0.parquet", "unfinished/0/0.parquet")  # below an output

NOWHERE = "links that lead nowhere"
LOOPS = "links back to a folder that they are in"
NO_FILES = "pipes, sockets and devices"
FOLDER_MARKS = "names that end in /, as marks of folders do"
OTHER_NAMES = "names that the store's client would take for others; rename them"

_MAGIC = re.compile(r"[*?\[]")

Passed = tuple[str, str]
"""Why a path below the folder is left out, and the path."""


class Files(NamedTuple):
    """root: the folder's address. names: sorted paths below it. linked: folders behind links, where they are.

    alone: whether it is one file that was named itself.
    """

    root: str
    names: list[str]
    passed: list[Passed]
    linked: list[str]
    alone: bool = False


class ByKind(NamedTuple):
    """names: by kind, sorted. sidecars: what may belong to a picture. passed: what is left out, and why."""

    names: dict[Kind, list[str]]
    sidecars: list[str]
    passed: list[Passed]


def files_of(url: str) -> Files:
    """The files of an input. Raises SourceError where there is no such file or folder."""
    url = storage.absolute(url)
    kind, root, pattern = _meant(url)
    if kind == "file":
        root, _, name = root.rpartition("/")
        return Files(root, [name], [], [], alone=True)
    if kind is None and pattern is None:
        chained = "; chains of protocols with :: are not followed" if "::" in url else ""
        raise SourceError(f"input {url}: there is no such file or folder{chained}")
    if pattern is not None and storage.is_local(storage.split(root)[0]) and storage.kind(root) is None:
        raise SourceError(f"input {url}: there is no folder {root}")
    found = _below(root, pattern)
    if pattern and not found.names and not found.passed:
        raise SourceError(f"input {url}: there is no file or folder of this pattern")
    return found


def by_kind(found: Files) -> ByKind:
    """What the files are; the first bytes of those whose name does not say are read."""
    names: dict[Kind, list[str]] = {kind: [] for kind in get_args(Kind)}
    sidecars, passed, unknown = list[str](), list(found.passed), list[str]()
    for name in found.names:
        if not found.alone and (reason := kinds.by_convention(name)):
            passed.append((reason, name))
        elif not found.alone and is_sidecar(name):
            sidecars.append(name)
        elif kind := kinds.by_name(name):
            names[kind].append(name)
        elif reason := kinds.reason_by_name(name):
            passed.append((reason, name))
        else:
            unknown.append(name)
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        heads = pool.map(lambda name: _head(found.root, name), unknown)
        for name, (head, reason) in zip(unknown, heads, strict=True):
            kind = kinds.by_content(head)
            if kind and kind != "images" and kinds.is_taken_out(name):
                passed.append((kinds.TAKEN_OUT, name))
            elif kind:
                names[kind].append(name)
            else:
                passed.append((reason or kinds.reason_by_content(head), name))
    return ByKind({kind: sorted(members) for kind, members in names.items()}, sidecars, passed)


def refuse_inside(output: str, inputs: Sequence[str]) -> None:
    """Raises SourceError where what is written to the folder `output` would be read as input."""
    for url in inputs:
        if _holds(storage.absolute(url), storage.absolute(output)):
            raise SourceError(
                f"output: {output} lies in the input {url}, where its files would be read as rows; allowed: "
                "a folder beside it"
            )


def _holds(url: str, output: str) -> bool:
    kind, root, pattern = _meant(url)
    (fs, folder), (its_fs, path) = storage.split(root), storage.split(output)
    if kind == "file" or type(fs) is not type(its_fs):
        return False
    if storage.is_local(fs):
        folder, path = os.path.realpath(folder), os.path.realpath(path)
    inside = folder.rstrip("/") + "/"
    if not f"{path}/".startswith(inside):
        return False
    below = f"{path}/"[len(inside) :]
    return pattern is None or any(pattern.means(below + name) for name in WRITTEN)


def _meant(url: str) -> tuple[str | None, str, _Glob | None]:
    """What is at an address (file, directory), or the folder and the pattern of a glob."""
    root = url.rstrip("/")
    kind = storage.kind(root)
    magic = _MAGIC.search(url)
    if kind or magic is None:
        return kind, root, None
    root, _, _ = url[: magic.start()].rpartition("/")
    if "://" in url and "://" not in f"{root}/":
        raise SourceError(f"input {url}: the name of a bucket or host cannot be a pattern")
    return None, root, _Glob(url[len(root) + 1 :])


def _head(root: str, name: str) -> tuple[bytes, str | None]:
    """The first bytes of a file, or none and why they cannot be read."""
    try:
        with storage.open_read(storage.join(root, name)) as file:
            return file.read(kinds.HEAD), None
    except storage.StorageError:
        raise  # a store out of reach is no fault of the file
    except OSError as error:
        return b"", f"files that cannot be opened: {error.strerror or describe(error)}"


class _Glob:
    """A pattern of paths: it means what matches and, where that is a folder, all that is below."""

    def __init__(self, pattern: str) -> None:
        segments = pattern.strip("/").split("/")
        self.prefix = pattern[: magic.start()] if (magic := _MAGIC.search(pattern)) else pattern
        self._folders_only = pattern.endswith("/")
        try:
            self._parts = [
                re.compile(glob_translate("/".join(segments[: depth + 1]))) for depth in range(len(segments))
            ]
        except (ValueError, re.error) as error:
            raise SourceError(f"input pattern {pattern}: {error}") from error
        self._depth = segments.index("**") if "**" in segments else len(segments)

    def means(self, name: str) -> bool:
        return any(self._parts[-1].match(path) for path in _paths(name, own=not self._folders_only))

    def leads_to(self, folder: str) -> bool:
        """Whether what is meant may be below a folder."""
        depth = folder.count("/")
        return (
            depth >= self._depth
            or any(self._parts[-1].match(path) for path in _paths(folder, own=True))
            or (depth < len(self._parts) - 1 and bool(self._parts[depth].match(folder)))
        )


def _paths(name: str, own: bool) -> Iterator[str]:
    """The folders that a path is in, and the path itself."""
    parts = name.split("/")
    yield from ("/".join(parts[:depth]) for depth in range(1, len(parts)))
    if own:
        yield name


def _below(root: str, glob: _Glob | None) -> Files:
    fs, path = storage.split(root)
    if storage.is_local(fs):
        found = _walk(path, glob.leads_to if glob else lambda _: True)
    else:
        names = storage.find(root, prefix=glob.prefix if glob else "")
        wrong = storage.unreadable(root, names)
        passed = [
            (FOLDER_MARKS if name.endswith("/") else OTHER_NAMES, name) for name in names if name in wrong
        ]
        found = Files(root, [name for name in names if name not in wrong], passed, [])
    if glob is None:
        return found
    meant = [(reason, name) for reason, name in found.passed if glob.means(name)]
    return Files(root, [name for name in found.names if glob.means(name)], meant, found.linked)


def _walk(root: str, enter: Callable[[str], bool]) -> Files:
    """All plain files below a local folder, in the folders that are to be entered."""
    names: list[str] = []
    passed: list[Passed] = []
    linked: list[str] = []
    todo = [("", frozenset([_identity(root)]))]  # a path below the root, and the folders that it is in
    while todo:
        folder, above = todo.pop()
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError as error:
            passed.append((f"folders that cannot be opened: {error.strerror}", folder))
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if os.path.isdir(entry.path):
                if (own := _identity(entry.path)) in above:
                    passed.append((LOOPS, name))
                elif enter(name):
                    if entry.is_symlink():
                        linked.append(os.path.realpath(entry.path))
                    todo.append((name, above | {own}))
            elif os.path.isfile(entry.path):
                names.append(name)
            else:
                passed.append((NO_FILES if os.path.exists(entry.path) else NOWHERE, name))
    return Files(root, sorted(names), sorted(passed), linked)


def _identity(folder: str) -> tuple[int, int]:
    """What is the same of a folder on all paths to it."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino
