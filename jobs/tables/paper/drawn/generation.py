"""Figure 12: what a tuned embedding has learned, seen by generating from it with classifier-free guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from jobs.pictures import side_by_side
from jobs.tables.grid import Cell, Grid, Part
from jobs.tables.paper.columns import SR8, tasks_on
from jobs.tables.paper.drawn.examples import examples
from jobs.tables.paper.world import World
from p2l_engine import restore
from p2l_engine.metrics import to_uint8
from p2l_engine.priors.base import LatentPrior
from p2l_engine.restore import pose
from p2l_engine.schedule import ddim_step, posterior_mean
from p2l_engine.solvers.parts.classifier_free import predict_guided
from pipeline.pictures.images import encode_png
from pipeline.stores import storage
from pipeline.worker.models import load_latent

SCALES = (1.0, 2.0, 4.0, 7.5)  # of classifier-free guidance
STEPS = 50


def figure_12(world: World, data_set: str, out: str, images: int) -> str:
    """A sheet: original, measurement, restored, generated from no prompt and from the tuned embedding."""
    grid = Grid({"": Part({"method": {"name": "p2l"}})}, tasks_on(world, (data_set,), (SR8,)), world.settings)
    (column,) = grid.columns
    job = grid.job(Cell("", column, 0), out)
    given, model = examples(job, images), load_latent(job.model)
    restored = restore(model, given.A, given.y, job.method, seeds=given.seeds, sigma=job.noise)
    assert restored.prompt_embeddings is not None
    problem = pose(model, given.A, given.y, seeds=given.seeds)
    z = problem.first_latents(model)
    assert problem.C is not None
    columns = [
        given.x,
        given.A.backproject(given.y),
        restored.images,
        generate(model, z, problem.C, problem.C, 1.0),
    ]
    columns += [generate(model, z, restored.prompt_embeddings, problem.C, scale) for scale in SCALES]
    sheet = list(zip(*map(to_uint8, columns), strict=True))
    storage.write_bytes(storage.join(out, "figure-12.png"), encode_png(side_by_side.sheet(sheet)))
    scales = ", ".join(f"{scale:g}" for scale in SCALES)
    return (
        "figure-12.png; from left to right: original, A^T y, restored, generated from the empty prompt, and "
        f"from the tuned embedding with guidance of {scales}, all from the restoration's first latent."
    )


@torch.no_grad()
def generate(prior: LatentPrior, z: Tensor, C: Tensor, null: Tensor, scale: float) -> Tensor:
    """Images (B, 3, H, W) by DDIM from z (B, C, h, w), guided from `null` to C (B, L, D)."""
    for at in prior.schedule(STEPS).steps:
        eps = predict_guided(prior, z, at.t, C, null, scale)
        z = ddim_step(posterior_mean(z, eps, at.alpha_bar), eps, at.alpha_bar_prev)
    return prior.decode(z)
