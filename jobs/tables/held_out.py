"""Held-out images of the shipped model as a shard: drawn scenes and crops of photographs, captioned."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p2l_engine.tiny import data
from p2l_engine.tiny.collection import Half, held_out_photographs
from pipeline.pictures.images import encode_png
from pipeline.stores import storage

REPORTED: Half = "test"
TUNED_ON: Half = "tuning"
FIRST_SEED = {REPORTED: data.HELD_OUT_SEED + 1, TUNED_ON: data.HELD_OUT_SEED + 2}

Example = tuple[str, np.ndarray, str]  # key, pixels (64, 64, 3) uint8, caption


def examples(count: int, which: Half = REPORTED) -> list[Example]:
    """``count`` images, scenes and crops in turn."""
    some = zip(scenes((count + 1) // 2, which), photographs((count + 1) // 2, which), strict=True)
    return [example for pair in some for example in pair][:count]


def scenes(count: int, which: Half = REPORTED) -> list[Example]:
    """``count`` drawn scenes with their exact captions."""
    drawn = data.scenes(count, FIRST_SEED[which])
    return [(f"scene-{i}", drawn.images[i], drawn.captions[i]) for i in range(count)]


def photographs(count: int, which: Half = REPORTED, side: int = data.SIDE) -> list[Example]:
    """``count`` squares of photographs that training never saw, reduced to (side, side, 3).

    They go through the photographs in turn, and of each through the whole scene, half of it and a detail,
    as far as these have ``side`` pixels; a side beyond the whole scene's is enlarged to.
    """
    known = list(held_out_photographs(which).items())
    extents = [extent for extent in data.HELD_OUT_EXTENTS if extent >= side] or data.HELD_OUT_EXTENTS[:1]
    found = []
    for i in range(count):
        turn, place = divmod(i, len(known))
        name, (pixels, caption) = known[place]
        extent = extents[(turn + place) % len(extents)]
        generator = np.random.default_rng([FIRST_SEED[which], i])
        top, left = (int(generator.integers(length - extent + 1)) for length in pixels.shape[:2])
        found.append((f"{name}-{i}", data.reduced(pixels, top, left, extent, side), caption))
    return found


def write(url: str, images: list[Example]) -> None:
    """One Parquet shard with the columns key, image and caption."""
    rows = [{"key": key, "image": encode_png(pixels), "caption": text} for key, pixels, text in images]
    with storage.write_whole(url) as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
