"""The images of a table side by side: a line a column of the table, for its first image."""

from __future__ import annotations

import numpy as np

from jobs.pictures import side_by_side
from jobs.tables.grid import Cell, Grid
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import all_rows, images
from pipeline.pictures.images import decode_image, encode_png


def sheet(grid: Grid, out: str) -> bytes:
    """PNG: in each line the original, then what each row made of its measurement with the first seed."""
    lines = []
    for column in grid.columns:
        found = [_first(Cell(row, column, 0).folder(out)) for row in grid.rows]
        lines.append([found[0][1], *(image for image, _ in found)])
    widest = max(picture.shape[0] for line in lines for picture in line)
    return encode_png(side_by_side.sheet([[_padded(picture, widest) for picture in line] for line in lines]))


def _first(url: str) -> tuple[side_by_side.Picture, side_by_side.Picture]:
    """The restored image and the original of the first key."""
    folder = OutputFolder(url)
    rows = all_rows(folder, ()).sort_by("key").to_pylist()
    row = next(row for row in rows if row["status"] == "ok")
    found = images(folder, {row["file"]: {row["key"]}}, ("image", "reference"))[row["key"]]
    image, reference = (np.asarray(decode_image(found[name]["bytes"])) for name in ("image", "reference"))
    return image, reference


def _padded(picture: side_by_side.Picture, side: int) -> side_by_side.Picture:
    """With white to the right and below."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, side - height), (0, side - width), (0, 0)), constant_values=255)
