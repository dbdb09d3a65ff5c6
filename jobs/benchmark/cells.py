"""What is compared: tasks, images, and methods, each with the method it is measured against."""

from dataclasses import dataclass
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
REPORTED, TUNED_ON = "reported", "tuned on"  # the two sets of held-out images; they share nothing
PHOTOGRAPHS = {REPORTED: ("astronaut", "chelsea", "coffee"), TUNED_ON: ("rocket",)}
FIRST_SEED = {REPORTED: data.HELD_OUT_SEED + 1, TUNED_ON: data.HELD_OUT_SEED + 2}


TASKS: dict[str, dict[str, Any]] = {  # `operator:` blocks
    "SR x8": {"name": "super_resolution", "factor": 8},
    "SR x4": {"name": "super_resolution", "factor": 4},
    "Gaussian blur": {"name": "gaussian_blur", "size": 61, "sigma": 3.0},
    "motion blur": {"name": "motion_blur", "size": 31, "intensity": 0.5},
    "inpainting 10-20 %": {"name": "inpainting", "mask": "free_form", "fraction": "10-20%"},
    "inpainting 80 %": {"name": "inpainting", "mask": "random", "fraction": 0.8},
}


@dataclass(frozen=True)
class Row:
    """A method of the table. method: its `method:` block; against: the row it is compared with."""

    method: dict[str, Any]
    against: str | None
    captioned: bool = False  # the right caption instead of the empty prompt


def _plain(name: str, against: str | None = None) -> Row:
    return Row({"name": name}, against)


def _tiny(name: str, against: str, *, captioned: bool = False, **settings: Any) -> Row:
    return Row({"name": name, "preset": "tiny", **settings}, against, captioned)


def _p2l(against: str, iterations: int, preset: str = "tiny", *, captioned: bool = False) -> Row:
    tuning = {"iterations": iterations} if iterations else None
    return Row({"name": "p2l", "preset": preset, "prompt_tuning": tuning}, against, captioned)


ROWS = {
    "adjoint": _plain("adjoint"),
    "bicubic": _plain("bicubic", "adjoint"),
    "total variation": _plain("tv", "adjoint"),
    "LDPS": _tiny("ldps", "adjoint"),
    "P2L, K=0": _p2l("LDPS", 0),
    "P2L, K=1": _p2l("P2L, K=0", 1),
    "P2L, K=0, right caption": _p2l("P2L, K=0", 0, captioned=True),
    "PSLD": _tiny("psld", "LDPS"),
    "GML-DPS": _tiny("gml_dps", "LDPS"),
    "LDIR": _tiny("ldir", "LDPS"),
    "LDPS + projection": _tiny("ldps", "LDPS", projection={"every": 4, "onto": "none"}),
    "LDPS + tuning": _tiny("ldps", "LDPS", prompt_tuning={"iterations": 1, "learning_rate": 0.05}),
    "LDPS, right caption": _tiny("ldps", "LDPS", captioned=True),
    "P2L-Adam, K=0": _p2l("LDIR", 0, "tiny_adam"),
    "P2L-Adam, K=1": _p2l("P2L-Adam, K=0", 1, "tiny_adam"),
    "P2L, K=3": _p2l("P2L, K=0", 3),
    "P2L, K=5": _p2l("P2L, K=0", 5),
    "P2L-Adam, K=3": _p2l("P2L-Adam, K=0", 3, "tiny_adam"),
    "P2L-Adam, K=5": _p2l("P2L-Adam, K=0", 5, "tiny_adam"),
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


def degrade(task: str, images: Images, seed: int) -> tuple[LinearOperator, Tensor, list[int]]:
    """The operator, the measurements and the images' seeds for one run seed."""
    seeds = [image_seed(seed, key) for key in images.keys]
    A = p2l_engine.operators.build(
        generators=[generator(s, "operator") for s in seeds],
        image_shape=tuple(images.x.shape[1:]),
        **TASKS[task],
    )
    return A, A.measure(images.x, SIGMA, [generator(s, "noise") for s in seeds]), seeds


def solver_of(method: dict[str, Any], task: str) -> Solver:
    """What a job with these `method:` and `operator:` blocks runs."""
    column = p2l_engine.operators.from_block(TASKS[task]).column
    return p2l_engine.methods.from_block(method, column)


def run_cell(
    model: p2l_engine.LatentDiffusion, row: Row, task: str, images: Images, seed: int, steps: int | None
) -> list[dict[str, Any]]:
    """Restore all images by one method with one seed: a record of figures for each."""
    A, y, seeds = degrade(task, images, seed)
    solver = solver_of(row.method, task)
    out = p2l_engine.restore(
        model,
        A,
        y,
        solver,
        steps if solver.prior is not None else None,
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
