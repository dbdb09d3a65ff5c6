"""Where a table is made: the models, the data sets, and the presets that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.tables import held_out
from jobs.tables.grid import CAPTIONED, PROMPTED
from p2l_engine.presets import SD_TREG
from p2l_engine.priors.architecture import LatentArchitecture, read_architecture
from p2l_engine.priors.image_tower import check_tower
from pipeline.stores import storage

FFHQ, IMAGENET, DIV2K = "FFHQ", "ImageNet", "DIV2K"
SD14 = "CompVis/stable-diffusion-v1-4"
OPTIMIZATION = {"iterations": 5, "learning_rate": 1e-4}  # of Table 1, from these prompts: Appendix B
STARTS = {FFHQ: "A high quality photo of a face", IMAGENET: "A high quality photo"}


@dataclass(frozen=True)
class World:
    """What a table is made with.

    settings: of every job. pixel: of those whose prior is in pixels, None without such a model.
    data: the shards of each of the paper's data sets that is at hand. presets: of the latent methods, by data
    set; pixel_preset: of the others. captions: of jobs whose prompts are captions of x, and of y, where such
    can be had. optimized: of prompt optimization in Table 1, by data set (Appendix B); None: as the preset
    has it. texts: of TReg, by data set, none standing for an empty one. without_tower: why TReg's image tower
    does not fit the model, None where it does. titles: what stands in for a data set. side, motion: of the
    model's images and of motion kernels, in pixels.
    """

    settings: Mapping[str, Any]
    pixel: Mapping[str, Any] | None
    data: Mapping[str, str]
    presets: Mapping[str, str]
    captions: Mapping[str, Mapping[str, Any]]
    pixel_preset: str
    optimized: Mapping[str, Mapping[str, Any]] | None
    texts: Mapping[str, str]
    without_tower: str | None
    titles: Mapping[str, str]
    side: int
    motion: int


def tiny(out: str, images: int, captioner: str | None = None) -> World:
    """The shipped models on held-out images: scenes for the narrow data set, photographs for the wide."""
    of_y = _captions(captioner, "measurement") if captioner else CAPTIONED
    return World(
        settings={"model": "tiny", "size": 64, "noise": 0.01},
        pixel={"model": "tiny-pixel"},
        data={
            FFHQ: _shards(out, "scenes", held_out.scenes(images)),
            IMAGENET: _shards(out, "photographs", held_out.photographs(images)),
            DIV2K: _shards(out, "large photographs", held_out.photographs(images, side=128)),
        },
        presets=dict.fromkeys((FFHQ, IMAGENET, DIV2K), "tiny"),
        captions={"x": PROMPTED, "y": of_y},
        pixel_preset="tiny",
        optimized=None,
        texts={},
        without_tower=None,
        titles={FFHQ: "drawn scenes", IMAGENET: "photographs", DIV2K: "photographs"},
        side=64,
        motion=31,
    )


def stable_diffusion(
    model: str, pixel: Mapping[str, Any] | None, captioner: str | None, data: Mapping[str, str]
) -> World:
    """A Stable Diffusion at its own size with the paper's settings on shards of its data sets.

    Raises what `read_architecture` raises, ValueError for a model that is not latent.
    """
    architecture = read_architecture(model)
    if not isinstance(architecture, LatentArchitecture):
        raise ValueError(f"--model: got {model}, a {architecture.kind} model; allowed: a latent one")
    side = architecture.native_size
    misfits = check_tower(SD_TREG["treg"]["negation"]["tower"], architecture.text_width)
    return World(
        settings={"model": model, "size": side, "noise": 0.01},
        pixel=pixel,
        data=dict(data),
        presets={FFHQ: "ffhq", IMAGENET: "imagenet", DIV2K: "imagenet"},
        captions={
            of: _captions(captioner, source)
            for of, source in (("x", "original"), ("y", "measurement"))
            if captioner
        },
        pixel_preset="paper",
        optimized={
            data_set: {"method": {"prompt_tuning": OPTIMIZATION}, "prompt": prompt}
            for data_set, prompt in STARTS.items()
        },
        texts=STARTS,
        without_tower=misfits[0] if misfits else None,
        titles={name: name for name in (FFHQ, IMAGENET, DIV2K)},
        side=side,
        motion=61,
    )


def pixel_prior(model: str | None, class_label: int | None) -> Mapping[str, Any] | None:
    """Settings of jobs by a model in pixels, and by a label for all images where it asks for one."""
    if model is None:
        return None
    return {"model": model} | ({} if class_label is None else {"method": {"class_label": class_label}})


def _captions(model: str, source: str) -> Mapping[str, Any]:
    return {"caption": {"model": model, "from": source}}


def _shards(out: str, name: str, images: list[held_out.Example]) -> str:
    folder = storage.join(out, "data", f"{len(images)} {name}")
    file = storage.join(folder, "held_out.parquet")
    if not storage.exists(file):
        held_out.write(file, images)
    return folder
