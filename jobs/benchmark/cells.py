"""What is compared: tasks, images, and methods, each with the method it is measured against."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import p2l_engine
from p2l_engine.operators.base import LinearOperator
from p2l_engine.seeding import generator, image_seed
from p2l_engine.solvers import Solver
from p2l_engine.tiny import data
from p2l_engine.tiny.photographs import held_out_photographs, random_crop
from pipeline.worker.measure import against

SIGMA = 0.01
PRESET = "tiny"
REPORTED, TUNED_ON = "reported", "tuned on"  # the two sets of held-out images; they share nothing
PHOTOGRAPHS = {REPORTED: ("astronaut", "chelsea", "coffee"), TUNED_ON: ("rocket",)}
FIRST_SEED = {REPORTED: data.HELD_OUT_SEED + 1, TUNED_ON: data.HELD_OUT_SEED + 2}


@dataclass(frozen=True)
class Task:
    """A degradation. tuned: settings of a method, where those of the preset do not fit."""

    operator: str
    settings: dict[str, Any]
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)


TASKS = {
    "SR x8": Task(
        "super_resolution",
        {"factor": 8},
        {"p2l": {"guidance": {"step_size": 15.0}, "projection": {"every": 5, "weight": 0.02}}},
    ),
    "SR x4": Task("super_resolution", {"factor": 4}),
    "Gaussian blur": Task("gaussian_blur", {"size": 61, "sigma": 3.0}),
    "motion blur": Task("motion_blur", {"size": 31, "intensity": 0.5}),
    "inpainting 10-20 %": Task("inpainting", {"mask": "free_form", "fraction": "10-20%"}),
    "inpainting 80 %": Task("inpainting", {"mask": "random", "fraction": 0.8}),
}


@dataclass(frozen=True)
class Row:
    """A method of the table. settings: over the preset's; against: the row it is compared with."""

    method: str
    against: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    captioned: bool = False  # the right caption instead of the empty prompt


def _p2l(against: str, iterations: int, rule: str = "gd", **settings: Any) -> Row:
    tuning = {"prompt_tuning": {"iterations": iterations} if iterations else None}
    guidance = {"guidance": {"rule": "adam", "step_size": ADAM_STEP}} if rule == "adam" else {}
    return Row("p2l", against, {**tuning, **guidance, **settings})


ADAM_STEP = 0.1
ROWS = {
    "adjoint": Row("adjoint", None),
    "bicubic": Row("bicubic", "adjoint"),
    "total variation": Row("tv", "adjoint"),
    "LDPS": Row("ldps", "adjoint"),
    "P2L, K=0": _p2l("LDPS", 0),
    "P2L, K=1": _p2l("P2L, K=0", 1),
    "P2L, K=0, right caption": Row("p2l", "P2L, K=0", {"prompt_tuning": None}, captioned=True),
    "PSLD": Row("psld", "LDPS"),
    "GML-DPS": Row("gml_dps", "LDPS"),
    "LDIR": Row("ldir", "LDPS"),
    "LDPS + projection": Row("ldps", "LDPS", {"projection": {"every": 4, "onto": "none"}}),
    "LDPS + tuning": Row("ldps", "LDPS", {"prompt_tuning": {"iterations": 1, "learning_rate": 0.05}}),
    "LDPS, right caption": Row("ldps", "LDPS", captioned=True),
    "P2L-Adam, K=0": _p2l("LDIR", 0, "adam"),
    "P2L-Adam, K=1": _p2l("P2L-Adam, K=0", 1, "adam"),
    "P2L, K=3": _p2l("P2L, K=0", 3),
    "P2L, K=5": _p2l("P2L, K=0", 5),
    "P2L-Adam, K=3": _p2l("P2L-Adam, K=0", 3, "adam"),
    "P2L-Adam, K=5": _p2l("P2L-Adam, K=0", 5, "adam"),
}


@dataclass(frozen=True)
class Images:
    """Held-out images x (N, 3, 64, 64) in [-1, 1], with a key and the right caption each."""

    x: Tensor
    keys: list[str]
    captions: list[str]


def held_out(count: int, which: str = REPORTED) -> Images:
    """``count`` images, drawn scenes and crops of photographs in turn."""
    first, photographs = FIRST_SEED[which], held_out_photographs()
    names = PHOTOGRAPHS[which]
    scenes = data.scenes((count + 1) // 2, first)
    images, keys, captions = [], [], []
    for i in range(count):
        if i % 2 == 0:
            image, key, caption = scenes.images[i // 2], f"scene-{i // 2}", scenes.captions[i // 2]
        else:
            name = names[i // 2 % len(names)]
            photograph, caption = photographs[name]
            image = random_crop(photograph, np.random.default_rng([first, i]), data.SIDE)
            key = f"{name}-{i // 2}"
        images.append(image)
        keys.append(key)
        captions.append(caption)
    return Images(data.to_tensor(np.stack(images)), keys, captions)


def degrade(task: Task, images: Images, seed: int) -> tuple[LinearOperator, Tensor, list[int]]:
    """The operator, the measurements and the images' seeds for one run seed."""
    seeds = [image_seed(seed, key) for key in images.keys]
    A = p2l_engine.operators.build(
        task.operator,
        generators=[generator(s, "operator") for s in seeds],
        image_shape=tuple(images.x.shape[1:]),
        **task.settings,
    )
    return A, A.measure(images.x, SIGMA, [generator(s, "noise") for s in seeds]), seeds


def build_method(row: Row, task: Task, steps: int | None) -> Solver:
    """The method of a table's row with the shipped model's settings for a task."""
    if not p2l_engine.methods.has_presets(row.method):
        return p2l_engine.methods.build(row.method)
    settings = dict(task.tuned.get(row.method, {}))
    for name, block in row.settings.items():
        settings[name] = None if block is None else settings.get(name, {}) | block
    extra = {} if steps is None else {"steps": steps}
    return p2l_engine.methods.build(row.method, PRESET, task.operator, **settings, **extra)


def run_cell(
    model: p2l_engine.LatentDiffusion, row: Row, task: Task, images: Images, seed: int, solver: Solver
) -> list[dict[str, Any]]:
    """Restore all images by one method with one seed: a record of figures for each."""
    A, y, seeds = degrade(task, images, seed)
    out = p2l_engine.restore(
        model,
        A,
        y,
        solver,
        prompts=images.captions if row.captioned else None,
        seeds=seeds,
        sigma=SIGMA,
    )
    to_uint8 = p2l_engine.metrics.to_uint8
    return [
        {"key": key, "residual": float(residual)} | against(to_uint8(x), to_uint8(restored))
        for key, x, restored, residual in zip(
            images.keys, images.x, torch.nan_to_num(out.images), out.residual, strict=True
        )
    ]
