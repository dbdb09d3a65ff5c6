"""A step's peak memory and network calls by size and method, counted; the count beside a measured peak."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from p2l_engine import load_model, methods, operators, restore
from p2l_engine.counting import Count, count_solver
from p2l_engine.priors.architecture import read_architecture
from p2l_engine.priors.load import Model, without_weights
from p2l_engine.solvers import Solver

GIB = 2**30
SIZES = ((512, 512), (768, 768), (1024, 1024), (1000, 1500), (2048, 2048))
METHODS: dict[str, dict[str, Any]] = {
    "p2l K=0": {"name": "p2l", "prompt_tuning": None},
    "p2l K=3": {"name": "p2l", "prompt_tuning": {"iterations": 3}},
    "ldps": {"name": "ldps"},
    "ldps, patches": {"name": "ldps", "patches": {}},
}
FACTOR = 4  # of the super-resolution that is measured


def counted(model_id: str, sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[str]:
    """The table in Markdown, line by line: GiB of one image beside the weights, calls of a step."""
    yield "| size | method | calls a step | float32 | checkpointed | 16 bits | checkpointed |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    model = without_weights(read_architecture(model_id))
    for size in sizes:
        for name, settings in METHODS.items():
            if "patches" in settings and min(size) <= model.native_size:
                continue
            solver = methods.build(**settings)
            brief = solver.brief()
            plain, least = (_count(model, size, brief, on) for on in (False, True))
            gib = [found.step_bytes / share / GIB for share in (1, 2) for found in (plain, least)]
            calls = plain.nfe // len(solver.schedule(model)) * _predictions(solver) // _predictions(brief)
            shown = " | ".join(f"{one:.1f}" for one in gib)
            yield f"| {size[0]}x{size[1]} | {name} | {calls} | {shown} |"


def measured(model_id: str, side: int) -> Iterator[str]:
    """Peaks of one step of ldps on this machine's CPU, each in a process of its own, beside the counts."""
    yield "| activation checkpointing | counted, GiB | measured, GiB | measured / counted |"
    yield "|---|---:|---:|---:|"
    model, solver = without_weights(read_architecture(model_id)), methods.build("ldps", steps=1)
    for checkpointing in (False, True):
        count = _count(model, (side, side), solver, checkpointing).step_bytes / GIB
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            peak = process.submit(_peak, model_id, side, solver, checkpointing).result() / GIB
        shown = "yes" if checkpointing else "no"
        yield f"| {shown} | {count:.2f} | {peak:.2f} | {peak / count:.2f} |"


def _predictions(solver: Solver) -> int:
    """How often a step predicts the noise of a whole latent."""
    tuning = getattr(solver, "prompt_tuning", None)
    return 1 + (tuning.iterations if tuning else 0)


def _count(model: Model, size: tuple[int, int], solver: Solver, checkpointing: bool) -> Count:
    model.checkpoint_activations(checkpointing)
    image = (3, *size)
    return count_solver(model, image, image, 1, solver)


def _peak(model_id: str, side: int, solver: Solver, checkpointing: bool) -> int:
    """Bytes by which a restoration raises the process's peak, after a small one has loaded what it needs."""
    model = load_model(model_id)
    model.checkpoint_activations(checkpointing)
    A = operators.build("super_resolution", factor=FACTOR)
    small, large = (torch.zeros(1, 3, size // FACTOR, size // FACTOR) for size in (model.native_size, side))
    restore(model, A, small, solver)
    before = _high_water()
    restore(model, A, large, solver)
    return _high_water() - before


def _high_water() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
