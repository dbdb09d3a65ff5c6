"""Figures 13 and 14: how far the auto-encoder drifts when it is applied to its own output again and again.

z_(n+1) = E(G(D(z_n))) from z_0 = E(x), with G the identity (Figure 13) or the gluing of PSLD,
G(x) = A^T y + (I - A^T A) x, of each operator (Figure 14). Were encoding and decoding a projection, z_0 would
be a fixed point.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.tables import plots
from jobs.tables.figures import line
from jobs.tables.grid import Cell, Grid, Part
from jobs.tables.paper.columns import TASKS, tasks_on
from jobs.tables.paper.drawn.examples import examples
from jobs.tables.paper.world import World
from p2l_engine.priors.base import LatentPrior
from p2l_engine.restore import pose
from pipeline.stores import storage
from pipeline.worker.models import load_latent

ROUNDS = 20
SHOWN = (1, 2, 5, 10, 20)  # in the table
NO_GLUING = "no gluing"


def figure_13(world: World, data_set: str, out: str, images: int) -> str:
    """Encoding and decoding alone. Returns Markdown; the picture and all rounds as CSV go to `out`."""
    return _figure("13", world, data_set, out, images, glued=False)


def figure_14(world: World, data_set: str, out: str, images: int) -> str:
    """With gluing, for each operator."""
    return _figure("14", world, data_set, out, images, glued=True)


@torch.no_grad()
def drift(prior: LatentPrior, x: Tensor, glue: Callable[[Tensor], Tensor] | None) -> NDArray[np.float64]:
    """Root mean square of z_n - z_0, in deviations of z_0, (ROUNDS, B), for images x (B, 3, H, W)."""
    first = z = prior.encode(x)
    scale = first.flatten(1).std(dim=1)
    found = []
    for _ in range(ROUNDS):
        image = prior.decode(z)
        z = prior.encode(image if glue is None else glue(image))
        found.append((z - first).flatten(1).square().mean(dim=1).sqrt() / scale)
    return torch.stack(found).double().cpu().numpy()


def _figure(number: str, world: World, data_set: str, out: str, images: int, *, glued: bool) -> str:
    found = {}
    grid = Grid({"": Part({"method": {"name": "ldps"}})}, tasks_on(world, (data_set,), TASKS), world.settings)
    for column in grid.columns if glued else list(grid.columns)[:1]:
        job = grid.job(Cell("", column, 0), out)
        given = examples(job, images)
        model = load_latent(job.model)
        problem = pose(model, given.A, given.y, seeds=given.seeds)
        name = column.removeprefix(f"{data_set}, ") if glued else NO_GLUING
        found[name] = drift(model, given.x, partial(problem.A.glue, problem.y) if glued else None)
    rounds = list(range(1, ROUNDS + 1))
    series = {name: (values.mean(axis=1), values.std(axis=1)) for name, values in found.items()}
    url = storage.join(out, f"figure-{number}.png")
    title = f"{world.titles[data_set]}, {len(given.keys)} images"
    plots.curves(
        url, title, ("encodings of decodings", "rms of z_n - z_0, in deviations of z_0"), rounds, series
    )
    records = ["operator,round,mean,deviation\n"]
    for name, (mean, deviation) in series.items():
        records += [f"{name},{n},{mean[n - 1]:.6g},{deviation[n - 1]:.6g}\n" for n in rounds]
    storage.write_text(storage.join(out, f"figure-{number}.csv"), "".join(records))
    lines = [line(["", *map(str, SHOWN)]), line(["---"] * (len(SHOWN) + 1))]
    for name, (mean, deviation) in series.items():
        lines.append(line([name, *(f"{mean[n - 1]:.3f} ± {deviation[n - 1]:.3f}" for n in SHOWN)]))
    return "\n".join(lines)
