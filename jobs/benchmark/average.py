"""What of a method's error is the texture that it draws: PSNR of single samples and of their mean.

The mean squared error of a sample is that of the samples' mean and their variance together. A method that
estimates the mean of all images which fit a measurement, as plain enlargement nearly does, pays no variance.
"""

from collections.abc import Iterator
from statistics import fmean

import torch

import p2l_engine
from jobs.benchmark.cells import ROWS, degrade, held_out, solver_of
from jobs.benchmark.quality import gain
from p2l_engine.metrics import psnr, to_uint8
from p2l_engine.seeding import image_seed


def run(task: str, row: str, images: int, samples: int, steps: int | None) -> Iterator[str]:
    """Lines of a table in Markdown: PSNR of the mean of 1, 2, 4, ... restorations of the same measurements.

    The samples differ in their first latent alone. Gains are over `adjoint`, with their standard error.
    """
    model = p2l_engine.load_model("tiny")
    batch, solver = held_out(images), solver_of(ROWS[row].method, task)
    A, y, _ = degrade(task, batch, seed=0)
    prompts = batch.captions if ROWS[row].captioned else None
    plain = _psnr(batch.x, p2l_engine.restore(None, A, y, "adjoint").images)
    yield f"| {task}, mean of | PSNR, dB | gain over adjoint |"
    yield "|---|---|---|"
    total = torch.zeros_like(batch.x)
    for sample in range(samples):
        seeds = [image_seed(sample, key) for key in batch.keys]
        total += p2l_engine.restore(model, A, y, solver, steps, prompts=prompts, seeds=seeds).images
        if (count := sample + 1) & sample == 0 or count == samples:
            found = _psnr(batch.x, total / count)
            gains = [here - there for here, there in zip(found, plain, strict=True)]
            yield f"| {count} of {row} | {fmean(found):.2f} | {gain(gains)} |"


def _psnr(x: torch.Tensor, restored: torch.Tensor) -> list[float]:
    return [psnr(to_uint8(a), to_uint8(b)) for a, b in zip(x, restored, strict=True)]
