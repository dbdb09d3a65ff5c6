"""The images of a table side by side: a line a column of the table, for its first image that all restored."""

from __future__ import annotations

import numpy as np

from jobs.pictures import side_by_side
from jobs.tables.grid import Cell, Grid
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import all_rows, images
from pipeline.pictures.images import decode_image, encode_png


def sheet(grid: Grid, out: str) -> bytes | None:
    """PNG: in each line the original, then what each row made of its measurement with the first seed.

    None where no image was restored by all.
    """
    lines = []
    for column in grid.columns:
        files = {url: _files(url) for url in (Cell(row, column, 0).folder(out) for row in grid.rows)}
        if key := min(set.intersection(*map(set, files.values())), default=None):
            found = [_pictures(url, key, of_key[key]) for url, of_key in files.items()]
            lines.append([found[0][1], *(image for image, _ in found)])
    if not lines:
        return None
    widest = max(picture.shape[0] for line in lines for picture in line)
    return encode_png(side_by_side.sheet([[_padded(picture, widest) for picture in line] for line in lines]))


def _files(url: str) -> dict[str, str]:
    """The file of each restored image, by key."""
    rows = all_rows(OutputFolder(url), ()).to_pylist()
    return {row["key"]: row["file"] for row in rows if row["status"] == "ok"}


def _pictures(url: str, key: str, file: str) -> tuple[side_by_side.Picture, side_by_side.Picture]:
    """The restored image and the original."""
    found = images(OutputFolder(url), {file: {key}}, ("image", "reference"))[key]
    image, reference = (np.asarray(decode_image(found[name]["bytes"])) for name in ("image", "reference"))
    return image, reference


def _padded(picture: side_by_side.Picture, side: int) -> side_by_side.Picture:
    """With white to the right and below."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, side - height), (0, side - width), (0, 0)), constant_values=255)
