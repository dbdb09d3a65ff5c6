"""The row that travels from a source to an actor, and the account of what becomes no row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyarrow as pa

from pipeline.messages import readable

INPUT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source_shard", pa.string()),
        ("image", pa.binary()),
        ("mask", pa.binary()),
        ("kernel", pa.binary()),
        ("prompt", pa.string()),
        ("error", pa.string()),
    ]
)


Keys = Literal["key", "row", "shard/key"]


@dataclass(frozen=True)
class Reading:
    """How a shard is read. keys: what a row's key is; key, image, ...: the Parquet column of each role.

    A key is the one that the shard has; or `row`, the shard's name and the row's number from 0; or
    `shard/key`, the shard's name and the shard's key: for keys that start again in each shard.
    """

    keys: Keys = "key"
    key: str = "key"
    image: str = "image"
    mask: str = "mask"
    kernel: str = "kernel"
    prompt: str = "prompt"

    def key_of(self, shard: str, row: int, stored: object) -> object:
        """The key of one row. `stored`, as the shard has it, is handed on as it is where it is no text."""
        if self.keys == "row":
            return f"{shard}/{row}"
        if self.keys == "shard/key" and isinstance(stored, str) and stored:
            return f"{shard}/{stored}"
        return stored

    @property
    def columns(self) -> dict[str, str]:
        """The column of each role."""
        roles = [field.name for field in fields(self) if field.name != "keys"]
        return {role: getattr(self, role) for role in roles}


AS_STORED = Reading()


class SourceError(ValueError):
    """An input that cannot be listed or read, or whose keys are wrong; one argument a mistake."""

    def __str__(self) -> str:
        return "\n".join(self.args)


def changed(url: str) -> SourceError:
    """For a shard whose rows are others than those whose keys were read."""
    return SourceError(f"{url}: has other rows than when the run began")


def replaced(url: str, shard: str) -> SourceError:
    """For a shard that is whole, under whose name there are other rows now."""
    return SourceError(
        f"input {url}: has other rows than the whole shard {shard} was made of; undo that, name the new "
        "file otherwise, or choose another output"
    )


@dataclass(frozen=True)
class LeftOut:
    """Files of an input, or parts of a shard, that become no rows and stand in none.

    reason: a clause that says what they are and why they are passed over. count: how many. examples: the
    first few names, as they are shown.
    """

    reason: str
    count: int
    examples: tuple[str, ...]

    @staticmethod
    def of(stored: Mapping[str, Any]) -> LeftOut:
        """From its fields as JSON and Arrow have them."""
        return LeftOut(stored["reason"], stored["count"], tuple(stored["examples"]))

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.count} left out, {self.reason}: {', '.join(self.examples)}{more}"


@dataclass(frozen=True)
class Inventory:
    """What a shard holds: the key of each row in order (None where it has none), and what becomes no row."""

    keys: list[object]
    left_out: tuple[LeftOut, ...] = ()


EXAMPLES = 5  # names that a LeftOut shows


def left_out(reasons: Iterable[tuple[str, str]]) -> tuple[LeftOut, ...]:
    """Pairs of a reason and a name, counted: one LeftOut a reason, in the order of their first names."""
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for reason, name in reasons:
        counts[reason] += 1
        shown = examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(readable(name))
    return tuple(LeftOut(reason, counts[reason], tuple(shown)) for reason, shown in examples.items())


def merged(found: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """Those of many shards, one a reason."""
    by_reason: dict[str, LeftOut] = {}
    for one in found:
        before = by_reason.get(one.reason, LeftOut(one.reason, 0, ()))
        shown = (*before.examples, *one.examples)[:EXAMPLES]
        by_reason[one.reason] = LeftOut(one.reason, before.count + one.count, shown)
    return tuple(by_reason.values())


Part = tuple[str, str, Callable[[], bytes]]
"""One file of a row: its role (image, mask, kernel, prompt), its name, and what reads it."""


@dataclass(frozen=True)
class InputRow:
    """image, mask, kernel: encoded images, or arrays as .npy bytes. error: why the row cannot be read."""

    key: str
    source_shard: str
    image: bytes | None = None
    mask: bytes | None = None
    kernel: bytes | None = None
    prompt: str | None = None
    error: str | None = None

    @staticmethod
    def failed(key: str, source_shard: str, error: str) -> InputRow:
        """A row that cannot be read, and why."""
        return InputRow(key, source_shard, error=readable(error))

    @staticmethod
    def table(found: Sequence[InputRow]) -> pa.Table:
        return pa.Table.from_pylist([asdict(row) for row in found], schema=INPUT_SCHEMA)


def row_of(key: str, shard: str, parts: Sequence[Part]) -> InputRow:
    """A row of files. Raises ValueError where a role has two of them, the image none, or text is no text."""
    counts = Counter(role for role, _, _ in parts)
    for role, name, _ in parts:
        if counts[role] > 1:
            raise ValueError(f"two files for one {role}: {name} is one of {counts[role]}")
    if "image" not in counts:
        names = ", ".join(name for _, name, _ in parts)
        raise ValueError(f"no image: there is {names}, and no picture of that name")
    found = {role: read() for role, _, read in parts}
    prompt = found.get("prompt")
    return InputRow(
        key=key,
        source_shard=shard,
        image=found["image"],
        mask=found.get("mask"),
        kernel=found.get("kernel"),
        prompt=None if prompt is None else _text(prompt),
    )


def _text(data: bytes) -> str:
    try:
        return data.decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt is no UTF-8 text: {error.reason} at byte {error.start}") from error
