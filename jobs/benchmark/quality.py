"""The methods compared on held-out images of the shipped model: ``python -m jobs.benchmark quality``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jobs.tables import held_out
from jobs.tables.grid import CAPTIONED, PROMPTED, Grid, Part
from pipeline.stores import storage

TASKS: dict[str, dict[str, Any]] = {  # `operator:` blocks
    "SR x8": {"name": "super_resolution", "factor": 8},
    "SR x4": {"name": "super_resolution", "factor": 4},
    "Gaussian blur": {"name": "gaussian_blur", "size": 61, "sigma": 3.0},
    "motion blur": {"name": "motion_blur", "size": 31, "intensity": 0.5},
    "inpainting 10-20 %": {"name": "inpainting", "mask": "free_form", "fraction": "10-20%"},
    "inpainting 80 %": {"name": "inpainting", "mask": "random", "fraction": 0.8},
}


# What is restored, and tabled apart.
KINDS: dict[str, Callable[[int], list[held_out.Example]]] = {
    "photographs": held_out.photographs,
    "scenes": held_out.scenes,
}


def _row(name: str, against: str | None, **settings: Any) -> Part:
    """A method with the settings of preset tiny, where it has any, and of those given."""
    return Part({"method": {"name": name, "preset": "tiny", **settings}}, against)


def _p2l(against: str, iterations: int, **settings: Any) -> Part:
    tuning = {"iterations": iterations} if iterations else None
    return _row("p2l", against, prompt_tuning=tuning, **settings)


BEST_WITHOUT, PLAIN = "total variation", "P2L, K=0"  # of no network; what its variants are compared with
ROWS = {
    "adjoint": _row("adjoint", BEST_WITHOUT),
    "bicubic": _row("bicubic", BEST_WITHOUT),
    BEST_WITHOUT: _row("tv", None),
    PLAIN: _p2l(BEST_WITHOUT, 0),
    "P2L, mean of 8": _row("p2l", BEST_WITHOUT, preset="tiny_psnr", toward=None),
    "P2L, mean of 8, drawn toward TV": _row("p2l", BEST_WITHOUT, preset="tiny_psnr"),
    "P2L, K=1": _p2l(PLAIN, 1),
    "P2L, K=3": _p2l(PLAIN, 3),
    "P2L, K=0, right caption": Part({**_p2l(PLAIN, 0).settings, **PROMPTED}, PLAIN),
    "P2L, K=0, caption of y": Part({**_p2l(PLAIN, 0).settings, **CAPTIONED}, PLAIN),
    "P2L, K=0, no gradient": _p2l(PLAIN, 0, guidance=None),
    "P2L, K=0, no last step": _p2l(PLAIN, 0, finish=None),
    "P2L, K=0, by Adam": _p2l(PLAIN, 0, preset="tiny_adam"),
    "LDPS": _row("ldps", PLAIN),
    "GML-DPS": _row("gml_dps", PLAIN),
    "PSLD": _row("psld", PLAIN),
    "LDIR": _row("ldir", PLAIN),
    "TReg": _row("treg", PLAIN),
    "ReSample": _row("resample", PLAIN),
    "DAPS": _row("daps", PLAIN),
    "LDPS, no last step": _row("ldps", "LDPS", finish=None),
}


def grid(tasks: Sequence[str], rows: dict[str, Part], images: str, steps: int | None = None) -> Grid:
    """The table of these tasks and rows on the shards at `images`; steps: instead of the preset's."""
    settings = {
        "input": images,
        "model": "tiny",
        "size": 64,
        "method": {} if steps is None else {"steps": steps},
    }
    return Grid(rows, {task: Part({"operator": TASKS[task]}) for task in tasks}, settings)


def shards(out: str, images: list[held_out.Example]) -> str:
    """The folder of the images below that of a table, written where it is missing."""
    folder = storage.join(out, "images")
    file = storage.join(folder, "held_out.parquet")
    if not storage.exists(file):
        held_out.write(file, images)
    return folder
