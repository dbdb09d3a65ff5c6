"""Which members of a tar make a row together, wherever they stand in it.

| member                                   | is |
|------------------------------------------|----|
| `x.txt`                                  | the prompt of x |
| `x.mask.png`, `x.kernel.npy` (or another picture's ending) | its mask, its kernel |
| any other with a picture's ending, or a picture's first bytes | a picture, and a row |
| others                                   | left out |

A key is the picture's path without its last ending, which is WebDataset's key where the name has one dot. Of
several pictures that would have one key each has its whole path, but for one with an ending of `COMMON` where
it is the only one of these. A picture's sidecars are those of its whole name, else of its name without the
last ending, else of its name up to its first dot: `x.txt` is the prompt of `x.left.png` and of `x.right.png`.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.input.rows import LeftOut, left_out
from pipeline.input.tar_members import Member
from pipeline.pictures.images import SUFFIXES

COMMON = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
ARRAY_SUFFIXES = (*SUFFIXES, ".npy")
APPLE = "macOS's notes on other files (._NAME)"
WITHOUT = "prompts, masks and kernels that no picture has the name of"


@dataclass(frozen=True)
class Sample:
    """A row: its key, and its members with their roles (image, mask, kernel, prompt)."""

    key: str
    members: tuple[tuple[str, Member], ...]


Sidecars = dict[tuple[str, str], list[Member]]  # by the name that they belong to, and their role


def is_part(member: Member) -> bool:
    """Whether a member may stand in a row."""
    return sidecar(member) is not None or _is_picture(member)


def samples(members: Iterable[Member]) -> tuple[list[Sample], tuple[LeftOut, ...]]:
    """The rows, in the order of their pictures, and the members that are in none."""
    pictures: dict[str, list[Member]] = defaultdict(list)
    sidecars: Sidecars = defaultdict(list)
    others: list[tuple[str, str]] = []
    for member in members:
        belongs = sidecar(member)
        if belongs is not None:
            sidecars[belongs].append(member)
        elif _is_picture(member):
            pictures[member.name].append(member)
        else:
            others.append((_why(member), member.name))
    keys = _keys(list(pictures))
    used: set[tuple[str, str]] = set()
    found = [
        Sample(keys[name], (*(("image", member) for member in same), *_beside(name, sidecars, used)))
        for name, same in pictures.items()
    ]
    alone, without = _alone(sidecars, used, {_first(name) for name in pictures})
    places = {sample.key: sample.members[0][1].offset for sample in (*found, *alone)}
    ordered = sorted((*found, *alone), key=lambda sample: places[sample.key])
    return ordered, left_out([*others, *((WITHOUT, member.name) for member in without)])


def _beside(name: str, sidecars: Sidecars, used: set[tuple[str, str]]) -> Iterator[tuple[str, Member]]:
    """The sidecars of a picture with their roles; they are noted in `used`."""
    for role in ("mask", "kernel", "prompt"):
        for owner in (name, _stem(name), _first(name)):
            if (owner, role) in sidecars:
                used.add((owner, role))
                yield from ((role, member) for member in sidecars[owner, role])
                break


def _alone(
    sidecars: Sidecars, used: set[tuple[str, str]], with_picture: set[str]
) -> tuple[list[Sample], list[Member]]:
    """Sidecars of no picture: a row, which will be an error, for each name that no picture begins with."""
    rows: dict[str, list[tuple[str, Member]]] = defaultdict(list)
    without: list[Member] = []
    for (owner, role), members in sidecars.items():
        if (owner, role) in used:
            continue
        if owner == _first(owner) and owner not in with_picture:
            rows[owner] += [(role, member) for member in members]
        else:
            without += members
    return [Sample(key, tuple(members)) for key, members in rows.items()], without


def _keys(names: Sequence[str]) -> Mapping[str, str]:
    """The key of each picture by its name, each another."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_stem[_stem(name)].append(name)
    keys = {name: name for name in names}
    for stem, same in by_stem.items():
        owners = same if len(same) == 1 else [name for name in same if _ending(name) in COMMON]
        if len(owners) == 1:
            keys[owners[0]] = stem
    while clashing := [name for name, key in keys.items() if key != name and keys.get(key) == key]:
        keys |= {name: name for name in clashing}
    return keys


def sidecar(member: Member) -> tuple[str, str] | None:
    """The name that a prompt, mask or kernel belongs to, and its role."""
    name, stem = member.name, _stem(member.name)
    suffix = name[len(stem) :].lower()
    if _is_apple(member):
        return None
    if suffix == ".txt":
        return stem, "prompt"
    for role in ("mask", "kernel") if suffix in ARRAY_SUFFIXES else ():
        if _ending(name).startswith(f".{role}.") and posixpath.basename(_first(name)):
            return _first(name), role
        owner = stem[: -len(role) - 1]
        if stem.lower().endswith(f".{role}") and posixpath.basename(owner):
            return owner, role
    return None


def _is_picture(member: Member) -> bool:
    return member.image or (member.name.lower().endswith(SUFFIXES) and not _is_apple(member))


def _is_apple(member: Member) -> bool:
    return posixpath.basename(member.name).startswith("._") and not member.image


def _why(member: Member) -> str:
    if _is_apple(member):
        return APPLE
    ending = member.name[len(_stem(member.name)) :].lower()
    return f"members of a tar that end in {ending}" if ending else "members of a tar without an ending"


def _ending(name: str) -> str:
    """'a/b.V2.png' -> '.v2.png': what follows WebDataset's key."""
    return name[len(_first(name)) :].lower()


def _stem(name: str) -> str:
    """'a/b.v2.png' -> 'a/b.v2': without the last ending; a name that begins with its only dot has none."""
    return posixpath.splitext(name)[0]


def _first(name: str) -> str:
    """'a/b.v2.png' -> 'a/b': up to the first dot of the last part, which is WebDataset's key.

    A dot that a name begins with is no such dot.
    """
    folder, base = posixpath.split(name)
    bare = base.lstrip(".")
    return posixpath.join(folder, base[: len(base) - len(bare)] + bare.partition(".")[0])
