"""Keys of rows: what is wrong with them, and the setting that helps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from pipeline.input.sources import Shard
from pipeline.messages import some

BY_ROW = "`keys: row` (p2l shard: --keys row), which makes keys of the shard's name and the row's number"
BY_SHARD = "`keys: shard/key` (p2l shard: --keys shard/key), which puts the shard's name before each key"

Place = tuple[str, int]  # a shard's name, and a row in it


def key_hash(key: object) -> int:
    """64 bits, so that the keys of a large run can be compared in 8 bytes each."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def bad_keys(shard: Shard, keys: Sequence[object]) -> list[str]:
    """A sentence on the keys that are missing, and one on those that are not text."""
    missing = [row for row, key in enumerate(keys) if key is None or key == ""]
    wrong = [(row, key) for row, key in enumerate(keys) if key is not None and not isinstance(key, str)]
    problems = []
    if missing:
        problems.append(
            f"{shard.url}: {len(missing)} rows without a key: rows {some(missing)}; give them one, or set "
            f"{BY_ROW}"
        )
    if wrong:
        shown = some([f"{key!r} ({type(key).__name__}, row {row})" for row, key in wrong])
        problems.append(
            f"{shard.url}: {len(wrong)} keys that are not text: {shown}; allowed: text and whole numbers; "
            f"set `columns: {{key: ...}}` (p2l shard: --columns key=...), or {BY_ROW}"
        )
    return problems


def repeated_keys(places: Mapping[str, Sequence[Place]]) -> list[str]:
    """One sentence on the keys that stand in more than one place, [] where none does."""
    repeated = {key: found for key, found in places.items() if len(found) > 1}
    if not repeated:
        return []
    shown = some([f"{key!r} ({', '.join(map(_shown, found))})" for key, found in repeated.items()])
    in_one_shard = any(len({name for name, _ in found}) < len(found) for found in repeated.values())
    helps = BY_ROW if in_one_shard else f"{BY_SHARD}, or {BY_ROW}"
    return [f"{len(repeated)} keys occur more than once: {shown}; set {helps}"]


def _shown(place: Place) -> str:
    return f"{place[0]} row {place[1]}"
