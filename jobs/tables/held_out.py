"""Held-out images of the shipped model as a shard: drawn scenes and crops of photographs, captioned."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p2l_engine.tiny import data
from p2l_engine.tiny.photographs import held_out_photographs, random_crop
from pipeline.pictures.images import encode_png
from pipeline.stores import storage

REPORTED, TUNED_ON = "reported", "tuned on"  # the two sets of held-out images; they share nothing
PHOTOGRAPHS = {REPORTED: ("astronaut", "chelsea", "coffee"), TUNED_ON: ("rocket",)}
FIRST_SEED = {REPORTED: data.HELD_OUT_SEED + 1, TUNED_ON: data.HELD_OUT_SEED + 2}

Example = tuple[str, np.ndarray, str]  # key, pixels (64, 64, 3) uint8, caption


def examples(count: int, which: str = REPORTED) -> list[Example]:
    """``count`` images, scenes and crops in turn."""
    some = zip(scenes((count + 1) // 2, which), photographs((count + 1) // 2, which), strict=True)
    return [example for pair in some for example in pair][:count]


def scenes(count: int, which: str = REPORTED) -> list[Example]:
    """``count`` drawn scenes with their exact captions."""
    drawn = data.scenes(count, FIRST_SEED[which])
    return [(f"scene-{i}", drawn.images[i], drawn.captions[i]) for i in range(count)]


def photographs(count: int, which: str = REPORTED, side: int = data.SIDE) -> list[Example]:
    """``count`` random crops (side, side, 3) of photographs that training never saw."""
    first, known, names = FIRST_SEED[which], held_out_photographs(), PHOTOGRAPHS[which]
    found = []
    for i in range(count):
        name = names[i % len(names)]
        photograph, caption = known[name]
        crop = random_crop(photograph, np.random.default_rng([first, 2 * i + 1]), side)
        found.append((f"{name}-{i}", crop, caption))
    return found


def write(url: str, images: list[Example]) -> None:
    """One Parquet shard with the columns key, image and caption."""
    rows = [{"key": key, "image": encode_png(pixels), "caption": text} for key, pixels, text in images]
    with storage.write_whole(url) as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
