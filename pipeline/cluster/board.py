"""What the workers of a run tell each other and the driver between receipts, in the store of Ray's head.

Where there is no Ray, nothing is kept.
"""

from __future__ import annotations

import json
from typing import Any

from ray.experimental import internal_kv

NAMESPACE = b"p2l"


def put(run: str, topic: str, name: str, value: Any) -> None:
    """Keeps a JSON value. run: the id of its lease."""
    if internal_kv._internal_kv_initialized():
        internal_kv._internal_kv_put(_key(run, topic, name), json.dumps(value), namespace=NAMESPACE)


def get(run: str, topic: str, name: str) -> Any:
    """The value, or None."""
    if not internal_kv._internal_kv_initialized():
        return None
    stored = internal_kv._internal_kv_get(_key(run, topic, name), namespace=NAMESPACE)
    return None if stored is None else json.loads(stored)


def read(run: str, topic: str) -> dict[str, Any]:
    """All values of a topic, by name."""
    if not internal_kv._internal_kv_initialized():
        return {}
    prefix = _key(run, topic, "")
    keys = internal_kv._internal_kv_list(prefix, namespace=NAMESPACE)
    names = [key.decode().removeprefix(prefix) for key in keys]
    return {name: value for name in names if (value := get(run, topic, name)) is not None}


def remove(run: str, topic: str, name: str = "") -> None:
    """Removes one value, or with no name all of the topic."""
    if internal_kv._internal_kv_initialized():
        key = _key(run, topic, name) if topic else f"{run}/"
        internal_kv._internal_kv_del(key, del_by_prefix=not name, namespace=NAMESPACE)


def clear(run: str) -> None:
    """Removes all that the run kept."""
    remove(run, "")


def _key(run: str, topic: str, name: str) -> str:
    return f"{run}/{topic}/{name}"
