"""The methods compared on held-out images of the shipped model: ``python -m jobs.benchmark quality``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.tables import held_out
from jobs.tables.grid import PROMPTED, Grid, Part
from p2l_engine.tiny.collection import Half
from pipeline.stores import storage

TASKS: dict[str, dict[str, Any]] = {  # `operator:` blocks
    "SR x8": {"name": "super_resolution", "factor": 8},
    "SR x4": {"name": "super_resolution", "factor": 4},
    "Gaussian blur": {"name": "gaussian_blur", "size": 61, "sigma": 3.0},
    "motion blur": {"name": "motion_blur", "size": 31, "intensity": 0.5},
    "inpainting 10-20 %": {"name": "inpainting", "mask": "free_form", "fraction": "10-20%"},
    "inpainting 80 %": {"name": "inpainting", "mask": "random", "fraction": 0.8},
}


def _row(name: str, against: str | None = None, *, captioned: bool = False, **settings: Any) -> Part:
    """A method with the settings of preset tiny, where it has any, and of those given."""
    method = {"method": {"name": name, "preset": "tiny", **settings}}
    return Part({**method, **PROMPTED} if captioned else method, against)


def _p2l(against: str, iterations: int, **settings: Any) -> Part:
    tuning = {"iterations": iterations} if iterations else None
    return _row("p2l", against, prompt_tuning=tuning, **settings)


ROWS = {
    "adjoint": _row("adjoint"),
    "bicubic": _row("bicubic", "adjoint"),
    "total variation": _row("tv", "adjoint"),
    "LDPS": _row("ldps", "adjoint"),
    "P2L, K=0": _p2l("LDPS", 0),
    "P2L, K=1": _p2l("P2L, K=0", 1),
    "P2L, K=0, right caption": _p2l("P2L, K=0", 0, captioned=True),
    "PSLD": _row("psld", "LDPS"),
    "GML-DPS": _row("gml_dps", "LDPS"),
    "LDIR": _row("ldir", "LDPS"),
    "LDPS + projection": _row("ldps", "LDPS", projection={"every": 4, "onto": "none"}),
    "LDPS + tuning": _row("ldps", "LDPS", prompt_tuning={"iterations": 1, "learning_rate": 0.05}),
    "LDPS, right caption": _row("ldps", "LDPS", captioned=True),
    "P2L-Adam, K=0": _p2l("LDIR", 0, preset="tiny_adam"),
    "P2L-Adam, K=1": _p2l("P2L-Adam, K=0", 1, preset="tiny_adam"),
    "P2L, K=3": _p2l("P2L, K=0", 3),
    "P2L, K=5": _p2l("P2L, K=0", 5),
    "P2L-Adam, K=3": _p2l("P2L-Adam, K=0", 3, preset="tiny_adam"),
    "P2L-Adam, K=5": _p2l("P2L-Adam, K=0", 5, preset="tiny_adam"),
    "P2L, K=0, mean of 8": _p2l("total variation", 0, samples=8),
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


def shards(out: str, images: int, which: Half = held_out.REPORTED) -> str:
    """The folder of the held-out images below that of a table, written where it is missing."""
    folder = storage.join(out, f"{images} images")
    file = storage.join(folder, "held_out.parquet")
    if not storage.exists(file):
        held_out.write(file, held_out.examples(images, which))
    return folder
