"""Which images the page shows, and those images made ready for it.

Rows are chosen by their metrics alone; only then are the images of the few chosen rows read.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline.output.columns import METRICS
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import images
from pipeline.results.report.text import with_unit

EXTREMES = 4  # images shown at either end of the ranking
LARGEST_SIDE = 512  # pixels; larger images are reduced to it, so that the page stays one that a browser opens
PIXELATED_BELOW = 256  # pixels; smaller images are enlarged without smoothing, to show what is really there
PICTURES = (("measurement", "measurement"), ("image", "restored"), ("reference", "original"))


@dataclass(frozen=True)
class Picture:
    """One image as the page embeds it; width and height are those stored, in pixels."""

    label: str
    source: str  # data URI, PNG
    width: int
    height: int
    reduced: bool
    pixelated: bool


@dataclass(frozen=True)
class Card:
    """One row as the page shows it."""

    key: str
    pictures: dict[str, Picture]  # by label; those of `PICTURES` that the row has
    figures: tuple[tuple[str, str], ...]  # name and value, in words
    fault: str | None  # why there are no pictures


@dataclass(frozen=True)
class Section:
    """Cards under one title."""

    title: str
    note: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Choice:
    """Rows for one section, chosen before any image is read."""

    title: str
    note: str
    rows: list[dict[str, Any]]


def choose(rows: pa.Table, sample: int, seed: int) -> list[Choice]:
    """Best, worst and a fair sample of the `ok` rows, each row once.

    The ranking is by the first metric that some row has: PSNR, or the residual where there are no originals.
    The sample is drawn without replacement from all rows that are not shown already, in the order of their
    keys, so it depends on `seed` and the keys alone. A run of few images is one section, best first.
    """
    ok = rows.filter(pc.equal(rows["status"], "ok")).sort_by("key")
    if not len(ok):
        return []
    ranking = next((m for m in METRICS if ok[m.column].null_count < len(ok)), METRICS[0])
    values = ok[ranking.column].cast(pa.float64()).to_numpy(zero_copy_only=False)
    ascending = -values if ranking.higher_is_better else values
    order = np.argsort(ascending, kind="stable")  # rows without a value come last
    title = ranking.title if ranking.title.isupper() else ranking.title.lower()
    first, last = f"highest {title}", f"lowest {title}"
    if not ranking.higher_is_better:
        first, last = last, first
    if len(ok) <= 2 * EXTREMES:
        return [Choice("All images", f"{first} first", ok.take(order).to_pylist())]
    ranked = order[~np.isnan(values[order])]
    ends = min(EXTREMES, len(ranked) // 2)
    best, worst = ranked[:ends], ranked[len(ranked) - ends :][::-1]
    rest = np.setdiff1d(np.arange(len(ok)), np.concatenate([best, worst]))
    drawn = np.sort(np.random.default_rng(seed).choice(rest, min(sample, len(rest)), replace=False))
    spread = f"{len(drawn)} of {len(rest):,} other images, drawn evenly, seed {seed}"
    found = (
        ("Best" if ranking.needs_reference else "Closest to the measurement", f"{first} first", best),
        ("Worst" if ranking.needs_reference else "Farthest from the measurement", f"{last} first", worst),
        *((("Sample", spread, drawn),) if len(drawn) < len(rest) else (("All others", "by key", drawn),)),
    )
    return [
        Choice(title, note, ok.take(indices).to_pylist()) for title, note, indices in found if len(indices)
    ]


def show(output: OutputFolder, choices: list[Choice]) -> tuple[Section, ...]:
    """The sections with their pictures, read file by file, row group by row group."""
    keys: dict[str, set[str]] = defaultdict(set)
    for choice in choices:
        for row in choice.rows:
            keys[row["file"]].add(row["key"])
    found = images(output, keys, [column for column, _ in PICTURES])
    return tuple(
        Section(c.title, c.note, tuple(_card(row, found.get(row["key"], {})) for row in c.rows))
        for c in choices
    )


def _card(row: dict[str, Any], images: dict[str, Any]) -> Card:
    figures = tuple((m.title, with_unit(m, row[m.column])) for m in METRICS if row.get(m.column) is not None)
    try:
        pictures = {label: _picture(images[c]["bytes"], label) for c, label in PICTURES if images.get(c)}
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return Card(row["key"], {}, figures, f"The stored image cannot be decoded: {error}")
    return Card(row["key"], pictures, figures, None if "restored" in pictures else "No image is stored.")


def _picture(encoded: bytes, label: str) -> Picture:
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        width, height = image.size
        reduced = max(image.size) > LARGEST_SIDE
        if reduced or image.format != "PNG":
            image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "PNG")
            encoded = buffer.getvalue()
    source = "data:image/png;base64," + base64.b64encode(encoded).decode()
    return Picture(label, source, width, height, reduced, max(width, height) <= PIXELATED_BELOW)
