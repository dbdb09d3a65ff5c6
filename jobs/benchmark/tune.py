"""Find the shipped model's settings, on other images than the reported: ``python -m jobs.benchmark tune``."""

import time
from statistics import fmean, stdev
from typing import Any

import p2l_engine
from jobs.benchmark.cells import TUNED_ON, Row, held_out, run_cell

RHO = (0.5, 1.0, 2.0, 4.0)
ADAM_RHO = (0.02, 0.05, 0.1, 0.2, 0.4)
LAMBDA = (0.1, 1.0)
GAMMA = (2, 4)
TV_WEIGHT = (0.0005, 0.002, 0.008, 0.03)
LEARNING_RATE = (0.01, 0.03, 0.1)

GRIDS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "ldps": [("ldps", {"guidance": {"step_size": rho}}) for rho in RHO],
    "ldir": [("ldir", {"guidance": {"step_size": rho}}) for rho in ADAM_RHO],
    "p2l": [
        (
            "p2l",
            {
                "prompt_tuning": None,
                "projection": {"every": every, "weight": weight},
                "guidance": {"rule": "gd", "step_size": rho},
            },
        )
        for rho in RHO[:3]
        for weight in LAMBDA
        for every in GAMMA
    ],
    "tv": [("tv", {})] + [("tv", {"weight": weight}) for weight in TV_WEIGHT],
    "tuning": [("p2l", {"prompt_tuning": None})]
    + [("p2l", {"prompt_tuning": {"iterations": 1, "learning_rate": rate}}) for rate in LEARNING_RATE],
    "tuning-ldps": [("ldps", {})]
    + [("ldps", {"prompt_tuning": {"iterations": 1, "learning_rate": rate}}) for rate in LEARNING_RATE],
}


def run(grid: str, images: int, steps: int | None, tasks: list[str]) -> None:
    """Print PSNR for each point of a grid, and the paired difference to its first point."""
    model = p2l_engine.load_model("tiny")
    batch = held_out(images, TUNED_ON)
    for task in tasks:
        first: list[float] = []
        for name, settings in GRIDS[grid]:
            started = time.monotonic()
            preset = {"preset": "tiny"} if p2l_engine.methods.has_presets(name) else {}
            row = Row({"name": name, **preset, **settings}, None)
            psnr = [figures["psnr"] for figures in run_cell(model, row, task, batch, 0, steps)]
            first = first or psnr
            gains = [a - b for a, b in zip(psnr, first, strict=True)]
            gain = f"{fmean(gains):+.2f} ± {stdev(gains) / len(gains) ** 0.5:.2f}"
            seconds = time.monotonic() - started
            print(f"{task}: {fmean(psnr):.2f} dB ({gain})  {name} {settings}  {seconds:.0f} s", flush=True)
