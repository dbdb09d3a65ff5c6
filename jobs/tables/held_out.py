"""Held-out images of the shipped model as a shard: drawn scenes and crops of photographs, captioned."""

from __future__ import annotations

from collections.abc import Iterator

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


def examples(count: int, which: str = REPORTED) -> Iterator[Example]:
    """``count`` images, scenes and crops in turn."""
    first, photographs = FIRST_SEED[which], held_out_photographs()
    names = PHOTOGRAPHS[which]
    scenes = data.scenes((count + 1) // 2, first)
    for i in range(count):
        if i % 2 == 0:
            yield f"scene-{i // 2}", scenes.images[i // 2], scenes.captions[i // 2]
        else:
            name = names[i // 2 % len(names)]
            photograph, caption = photographs[name]
            crop = random_crop(photograph, np.random.default_rng([first, i]), data.SIDE)
            yield f"{name}-{i // 2}", crop, caption


def write(url: str, images: list[Example]) -> None:
    """One Parquet shard with the columns key, image and caption."""
    rows = [{"key": key, "image": encode_png(pixels), "caption": text} for key, pixels, text in images]
    with storage.write_whole(url) as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
