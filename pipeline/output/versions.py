"""What each start of a run ran under, and where a later one can give other results than an earlier one."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pipeline.output.folder import now

VERSIONS_OF = ("p2l", "ray", "torch", "diffusers", "transformers", "pyarrow", "pillow", "numpy")
OF_RESULTS = ("p2l", "torch", "diffusers", "transformers", "pillow", "numpy")

Entry = Mapping[str, Any]


def entry(device: str) -> dict[str, Any]:
    """This start's entry in run.json: its time, the device of its actors (cpu, cuda), and versions."""
    versions = {"python": platform.python_version()} | {name: _version(name) for name in VERSIONS_OF}
    return {"started": now(), "device": device, "versions": versions}


def changes(before: Entry, after: Entry) -> list[str]:
    """What differs between two starts and can change results: "torch 2.12.0 -> 2.13.0"."""
    old, new = _of_results(before), _of_results(after)
    return [f"{name} {old[name]} -> {new[name]}" for name in new if name in old and old[name] != new[name]]


def upgrades(starts: Sequence[Entry]) -> list[str]:
    """The changes from each start to the next, where there are any, with the time from which they hold."""
    return [
        f"{after.get('started')}: {', '.join(found)}"
        for before, after in pairwise(starts)
        if (found := changes(before, after))
    ]


def _of_results(start: Entry) -> dict[str, Any]:
    """By name, without what an older run.json does not say."""
    versions = start.get("versions", {})
    found = {name: versions.get(name) for name in OF_RESULTS}
    if python := versions.get("python"):
        found["python"] = ".".join(python.split(".")[:2])
    found["device"] = start.get("device")
    return {name: value for name, value in found.items() if value is not None}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
