"""Photographs: those to train on, read from unpacked packages, and those held out, shipped here.

``training.csv`` names every photograph to train on: the package that ships it, the file in it
(``archive:file`` for one inside a Qt resource collection) and, written by hand, what is on it.
"""

import csv
import importlib.util
import io
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from p2l_engine.tiny.qt_resource import read_resources

HERE = Path(__file__).parent
PYTHON_PACKAGES = {"scikit-image": ("skimage", "data"), "scikit-learn": ("sklearn", "datasets/images")}
LONGEST_SIDE = 512  # pixels; larger photographs are reduced, so that a crop shows something

Half = Literal["tuning", "test"]


class Photograph(NamedTuple):
    """RGB pixels (H, W, 3), uint8, and a caption."""

    pixels: NDArray[np.uint8]
    caption: str


def training_photographs(packages: Path, table: Path = HERE / "training.csv") -> list[Photograph]:
    """The photographs of ``table``, at most 512 pixels a side.

    packages: folder in which each Debian package lies unpacked under its name, ``packages/NAME/usr/...``.

    Raises FileNotFoundError that names every file not found and says how to get its package.
    """
    rows = [
        (_folder(row["package"], packages), row["package"], row["file"], row["subject"])
        for row in csv.DictReader(table.read_text().splitlines())
    ]
    missing = {
        folder / file.split(":")[0]: package
        for folder, package, file, _ in rows
        if not (folder / file.split(":")[0]).is_file()
    }
    if missing:
        raise FileNotFoundError(_how_to_get(missing, packages))
    return [
        Photograph(_read(_source(folder, file)), f"a photograph of {subject}")
        for folder, _, file, subject in rows
    ]


@cache
def held_out_photographs(half: Half) -> dict[str, Photograph]:
    """Fourteen photographs by name, 480x360, never trained on: to tune settings on, or to test on."""
    folder = HERE / "held_out"
    return {
        Path(row["file"]).stem: Photograph(
            _read(folder / half / row["file"]), f"a photograph of {row['subject']}"
        )
        for row in csv.DictReader((folder / "photographs.csv").read_text().splitlines())
        if row["half"] == half
    }


def _folder(package: str, packages: Path) -> Path:
    if package not in PYTHON_PACKAGES:
        return packages / package
    module, inside = PYTHON_PACKAGES[package]
    found = importlib.util.find_spec(module)
    return Path(found.origin).parent / inside if found and found.origin else packages / package


def _how_to_get(missing: dict[Path, str], packages: Path) -> str:
    lines = ["photographs to train on are missing:"]
    for package in dict.fromkeys(missing.values()):
        how = (
            f"pip install {package}"
            if package in PYTHON_PACKAGES
            else f"apt-get download {package} && dpkg-deb -x {package}_*.deb {packages / package}"
        )
        lines.append(f"  {how}")
        lines += [f"    no {path}" for path, of in missing.items() if of == package]
    return "\n".join(lines)


def _source(folder: Path, file: str) -> Path | io.BytesIO:
    archive, _, inside = file.partition(":")
    return io.BytesIO(_resources(folder / archive)[inside]) if inside else folder / archive


@cache
def _resources(archive: Path) -> dict[str, bytes]:
    return read_resources(archive)


def _read(source: Path | io.BytesIO) -> NDArray[np.uint8]:
    with Image.open(source) as image:
        image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # a JPEG is decoded reduced, which is faster
        pixels = image.convert("RGBA")
    pixels.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", pixels.size, "white")
    return np.asarray(Image.alpha_composite(ground, pixels).convert("RGB"))
