"""What is wrong with a cluster launcher file: by Ray's schema, and by the types of the Compute API."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import googleapiclient.discovery_cache
import jsonschema
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.infra.documents import Document

TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}


def ray_complaints(launcher: Document) -> list[str]:
    """What `ray up` says before it asks the cloud; of the file as Ray completes it, not as it is written."""
    try:
        validate_config(prepare_config(copy.deepcopy(launcher)))
    except jsonschema.ValidationError as error:
        return [f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"]
    except (ValueError, AssertionError) as error:
        return [str(error)]
    return []


def compute_complaints(launcher: Document) -> list[str]:
    """What an instances.insert request with each `node_config` as its body would be refused for."""
    return [
        complaint
        for name, node_type in launcher["available_node_types"].items()
        for complaint in _against("Instance", node_type["node_config"], f"{name}.node_config")
    ]


@functools.cache
def _schemas() -> dict[str, Any]:
    folder = Path(googleapiclient.discovery_cache.__file__).parent / "documents"
    return json.loads((folder / "compute.v1.json").read_text())["schemas"]


def _against(schema: str, value: object, where: str) -> Iterator[str]:
    fields = _schemas()[schema]["properties"]
    if not isinstance(value, dict):
        yield f"{where}: got {type(value).__name__}; allowed: an object, {schema}"
        return
    for name, content in value.items():
        if name in fields:
            yield from _field(fields[name], content, f"{where}.{name}")
        else:
            yield f"{where}.{name}: is no field of {schema}"


def _field(field: Document, value: object, where: str) -> Iterator[str]:
    if "$ref" in field:
        yield from _against(field["$ref"], value, where)
        return
    kind = field["type"]
    if kind == "string" and field.get("format") in ("int64", "uint64") and type(value) is int:
        return  # JSON's numbers are too small for these, so the API takes text, and numbers as well
    if not isinstance(value, TYPES[kind]) or (kind in ("integer", "number") and isinstance(value, bool)):
        yield f"{where}: got {value!r}; allowed: {kind}"
    elif "enum" in field and value not in field["enum"]:
        yield f"{where}: got {value!r}; allowed: {', '.join(field['enum'])}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _field(field["items"], item, f"{where}.{index}")
    elif isinstance(value, dict) and "additionalProperties" in field:
        for name, item in value.items():
            yield from _field(field["additionalProperties"], item, f"{where}.{name}")
