"""What to say of an input that mixes kinds: what is there, and the pattern that means one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.pictures import kinds
from pipeline.pictures.kinds import Kind
from pipeline.stores import storage

WORDS: dict[Kind, str] = {"parquet": "Parquet file", "tar": "tar", "images": "picture"}


def mixed(root: str, names: Mapping[Kind, Sequence[str]]) -> str:
    """A clause about the files below a folder, by kind, of which at least two have some."""
    held = {kind: members for kind, members in names.items() if members}
    counts = " and ".join(
        f"{len(members)} {WORDS[kind]}{'s' * (len(members) > 1)}" for kind, members in held.items()
    )
    note = ""
    if _lists_the_others(held):
        note = "; its Parquet files list what is in the others, as those of img2dataset do"
        held = {kind: members for kind, members in held.items() if kind != "parquet"}
    patterns = " or ".join(_pattern(root, kind, members, names) for kind, members in held.items())
    return f"mixes {counts}{note}; give one kind as `input`, such as {patterns}"


def _lists_the_others(held: Mapping[Kind, Sequence[str]]) -> bool:
    """Whether each Parquet file is named as a tar, or as a folder of pictures, beside it."""
    beside = {_stem(name) for name in held.get("tar", ())}
    beside |= {name.rpartition("/")[0] for name in held.get("images", ())}
    return "parquet" in held and {_stem(name) for name in held["parquet"]} <= beside


def _pattern(root: str, kind: Kind, members: Sequence[str], names: Mapping[Kind, Sequence[str]]) -> str:
    others = [name for other, found in names.items() if other != kind for name in found]
    if kind == "images" and all("/" in name for name in members) and not any("/" in name for name in others):
        return storage.join(root, "*/")  # with the sidecars
    deep = "**/" if any("/" in name for name in members) else ""
    endings = {"*." + name.rpartition(".")[2] if kinds.ending(name) else name for name in members}
    return storage.join(root, f"{deep}{min(endings)}")


def _stem(name: str) -> str:
    return name[: -len(kinds.ending(name)) or None]
