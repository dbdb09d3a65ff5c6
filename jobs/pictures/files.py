"""The picture files that `p2l image` writes: their formats, and what is wrong with a name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOSSY = (".jpg", ".jpeg")
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {  # by ending: Pillow's name, and its options
    ".png": ("PNG", {"compress_level": 4}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    **dict.fromkeys(LOSSY, ("JPEG", {"quality": 95, "subsampling": 0})),
}


def problems(outputs: Mapping[str, Path], inputs: Mapping[str, Path | None]) -> list[str]:
    """Why files cannot be written, or would overwrite one that is read; by what the command calls each.

    Those beside the first are looked at only where it has no problem.
    """
    found: list[str] = []
    for name, path in outputs.items():
        if found:
            break
        if path.is_dir():
            found.append(f"{name} {path}: is a folder; name a file in it, such as {path / 'restored.png'}")
        elif path.suffix.lower() not in FORMATS:
            found.append(
                f"{name} {path}: its ending names no format; allowed: {', '.join(FORMATS)} "
                f"(all without loss but {' and '.join(LOSSY)})"
            )
        elif path.exists() and not path.is_file():
            found.append(f"{name} {path}: is no file that can be written")
        else:
            found += [
                f"{name} {path}: would overwrite {read}; name another file"
                for read, source in inputs.items()
                if source is not None and path.exists() and source.exists() and path.samefile(source)
            ]
            found += _unwritable(name, path)
    return found


def _unwritable(name: str, path: Path) -> list[str]:
    """The file is there, or the folder nearest to it that is."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if there != path and not there.is_dir():
        return [f"{name} {path}: {there} is a file, not a folder"]
    if not os.access(there, os.W_OK):
        return [f"{name} {path}: {there} cannot be written to by this user"]
    return []


def write(path: Path, pixels: NDArray[np.uint8]) -> None:
    """uint8 (H, W, 3) as the format that the file's ending names."""
    from PIL import Image

    kind, options = FORMATS[path.suffix.lower()]
    Image.fromarray(pixels).save(path, kind, **options)
