"""YAML as people write it: 1e-4 is a number, and what stands twice is a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"  # `<<`, which may stand beside what it brings


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-4 for text; people mean the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read(text: str) -> Any:
    """The content of a YAML document. Raises yaml.YAMLError, which names every key that stands twice."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if twice := list(_twice(node, set())):
            raise yaml.YAMLError("; ".join(twice))
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _twice(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    """Each key of a block that an earlier line has, too; YAML itself would let the last one win.

    seen: nodes that were looked at: one with an anchor stands in several places, and may stand in itself.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            yield from _twice(inner, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                line = key.start_mark.line + 1
                if first := lines.get((key.tag, key.value)):
                    yield f"{key.value} stands twice, in lines {first} and {line}; leave one of them"
                lines.setdefault((key.tag, key.value), line)
            yield from _twice(value, seen)
