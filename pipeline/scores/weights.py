"""The networks that scores are asked of, and where the files of their weights are."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from p2l_engine.metrics import NETWORKS
from p2l_engine.metrics.networks import FOLDER_VARIABLE, hub_folder, packaged
from p2l_engine.mistakes import Mistakes, did_you_mean
from p2l_engine.priors.fetch import cache_folder
from pipeline.stores import storage

NAMES = {name: network for network, of in NETWORKS.items() for name in of.names}
"""Every score, and the network that it is made by."""


@dataclass(frozen=True)
class Weights:
    """place: the file, as a path or a URL; None where a package brings it, on each machine its own.

    digest: 16 hexadecimal digits of its content's SHA-256.
    """

    network: str
    place: str | None
    digest: str

    def here(self) -> Path:
        """The file on this machine, fetched first where it has to be. Raises FileNotFoundError without it."""
        return _here(self.network, self.place)


def unknown(names: Sequence[str]) -> Iterator[str]:
    """A sentence on each name that is no score's."""
    for name in names:
        if name not in NAMES:
            yield f"--score: got {name!r}, allowed are {', '.join(NAMES)}{did_you_mean(name, NAMES)}"


def find(networks: Iterable[str], place: str | None) -> tuple[list[Weights], list[str]]:
    """Those of the networks that can be used, and a sentence on each that lacks its file or its code.

    place: a folder or a file, here or at a URL; by default that of the variable P2L_NETWORKS, else the folder
    in which torch keeps what it downloads. Raises Mistakes for a place where there is none of their files.
    """
    given = place or os.environ.get(FOLDER_VARIABLE)
    held = _held(given or str(hub_folder()))
    if given and not held:
        files = ", ".join(of.file for of in NETWORKS.values())
        raise Mistakes(
            [f"--networks: {given} is and has none of {files}; allowed: a file, or a folder of them"]
        )
    found, lacking = list[Weights](), list[str]()
    for network in networks:
        if not (network in held or packaged(network)):
            lacking.append(NETWORKS[network].wanted)
        elif without := NETWORKS[network].missing_modules:
            lacking.append(without)
        else:
            file = held.get(network)
            found.append(Weights(network, file, _digest(_here(network, file))))
    return found, lacking


def _held(place: str) -> dict[str, str]:
    """The file of each network that a file or a folder is or has."""
    published = {of.file: network for network, of in NETWORKS.items()}
    url = storage.absolute(place).rstrip("/")
    folder, _, name = url.rpartition("/")
    if storage.kind(url) == "file":
        return {published[name]: url} if name in published else {}
    names = storage.find(url, ".pth")
    return {published[name]: storage.join(url, name) for name in names if name in published}


def _here(network: str, place: str | None) -> Path:
    """A URL's file, each version of it copied once into the cache folder; a path as it is."""
    if place is None or "://" not in place:
        file = packaged(network) if place is None else Path(place)
        if file is None or not file.is_file():
            raise FileNotFoundError(
                f"{place or NETWORKS[network].file}: not on this machine; needed by {network}"
            )
        return file
    mark = hashlib.sha256(f"{place} {storage.version(place)}".encode()).hexdigest()[:16]
    copy = cache_folder() / "networks" / mark / NETWORKS[network].file
    copy.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(copy.with_suffix(".lock")):
        if not copy.is_file():
            with storage.open_read(place) as source, storage.write_whole(str(copy)) as target:
                shutil.copyfileobj(source, target, 2**24)
    return copy


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]
