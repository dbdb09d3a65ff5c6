"""Figures 2 and 3: D(z_0|t) as a method goes on, from the same first latent for each."""

from __future__ import annotations

import torch
from torch import Tensor

from jobs.pictures import side_by_side
from jobs.tables.grid import Cell, Grid, Part
from jobs.tables.paper.columns import SR8, tasks_on
from jobs.tables.paper.drawn.examples import examples
from jobs.tables.paper.world import World
from p2l_engine.metrics import to_uint8
from p2l_engine.priors.base import LatentPrior
from p2l_engine.restore import pose
from p2l_engine.schedule import posterior_mean
from p2l_engine.solvers import Problem, Solver
from pipeline.pictures.images import encode_png
from pipeline.stores import storage
from pipeline.worker.models import load_latent

ROWS = {
    "LDPS": Part({"method": {"name": "p2l", "prompt_tuning": None, "projection": None}}),
    "PSLD": Part({"method": {"name": "psld"}}),
    "LDPS + projection": Part({"method": {"name": "p2l", "prompt_tuning": None}}),
}
SHOWN = 6  # moments of each


def figure_2(world: World, data_set: str, out: str, images: int) -> str:
    """A sheet for each image, a line a method; returns Markdown, the sheets go to `out`."""
    grid = Grid(ROWS, tasks_on(world, (data_set,), (SR8,)), world.settings)
    (column,) = grid.columns
    sheets: list[list[side_by_side.Picture]] = []
    for name in grid.rows:
        job = grid.job(Cell(name, column, 0), out)
        given, model = examples(job, images), load_latent(job.model)
        images = len(given.keys)
        problem = pose(model, given.A, given.y, seeds=given.seeds, sigma=job.noise)
        moments = [to_uint8(x) for x in evolution(model, job.method, problem)]
        sheets += [[moment[i] for moment in moments] for i in range(images)]
    names = []
    for i in range(images):
        url = storage.join(out, f"figure-2-{i}.png")
        storage.write_bytes(url, encode_png(side_by_side.sheet(sheets[i::images])))
        names.append(f"figure-2-{i}.png")
    return f"Lines: {', '.join(ROWS)}; from noise to the image. {', '.join(names)}"


def evolution(prior: LatentPrior, solver: Solver, problem: Problem) -> list[Tensor]:
    """D(z_0|t) (B, 3, H, W) at SHOWN moments, evenly spread, the last one the result."""
    steps = list(solver.schedule(prior))
    shown = {round(i * len(steps) / SHOWN) for i in range(1, SHOWN)}
    state = solver.start(prior, problem)
    found = []
    for done, at in enumerate(steps):
        if done in shown:
            with torch.no_grad():
                eps = prior.predict_noise(state.z, at.t, state.C)
                found.append(prior.decode(posterior_mean(state.z, eps, at.alpha_bar)))
        state = solver.step(prior, problem, state, at)
    with torch.no_grad():
        return [*found, solver.finished(prior, problem, state)]
