"""What computing in 16 bits costs a restoration: ``python -m jobs.benchmark precision``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.tables import held_out
from jobs.tables.figures import line
from p2l_engine import methods, operators, restore
from p2l_engine.tiny.data import to_tensor
from pipeline.config import ModelConfig
from pipeline.worker import models

FACTOR, NOISE = 4, 0.01  # of the enlargement and its measurements
PEAK = 2.0  # of pixels in [-1, 1]
HALF = ("bfloat16", "float16")
METHODS: dict[str, dict[str, Any]] = {
    "p2l": {"name": "p2l"},
    "p2l, Adam": {"name": "p2l", "preset": "tiny_adam"},
    "ldps": {"name": "ldps"},
    "gml_dps": {"name": "gml_dps"},
    "psld": {"name": "psld"},
    "ldir": {"name": "ldir"},
    "treg": {"name": "treg"},
    "resample": {"name": "resample"},
    "daps": {"name": "daps"},
    "latino": {"name": "latino"},
    "latino_pro": {"name": "latino_pro"},
    "dps": {"name": "dps"},
    "diffpir": {"name": "diffpir"},
    "dds": {"name": "dds"},
    "pigdm": {"name": "pigdm"},
}


def table(names: Sequence[str], images: int, steps: int | None) -> Iterator[str]:
    """Markdown: mean PSNR in float32, and of each half type the mean difference with its standard error."""
    yield line(["method", "float32, dB", *(f"{dtype} - float32, dB" for dtype in HALF)])
    yield line(["---", *["---:"] * (1 + len(HALF))])
    for name in names:
        single, *others = (figures(name, dtype, images, steps) for dtype in ("float32", *HALF))
        apart = [other - single for other in others]
        shown = [f"{one.mean():+.3f} ± {one.std() / images**0.5:.3f}" for one in apart]
        yield line([name, f"{single.mean():.2f}", *shown])


def figures(name: str, dtype: str, images: int, steps: int | None) -> Tensor:
    """PSNR (images,) in dB of enlarged held-out images by a method of `METHODS`, networks in a dtype.

    Raises RuntimeError where an image fails.
    """
    operator = operators.from_block({"name": "super_resolution", "factor": FACTOR})
    solver = methods.build(**{"preset": "tiny", "operator": "super_resolution", **METHODS[name]})
    shipped = "tiny" if solver.prior == "latent" else "tiny-pixel"
    model = models.load(ModelConfig.model_validate({"id": shipped, "dtype": dtype}))
    x = to_tensor(np.stack([pixels for _, pixels, _ in held_out.examples(images)]))
    A = operator.example(images, (3, *x.shape[2:]))
    y = A.measure(x, NOISE, [torch.Generator().manual_seed(place) for place in range(images)])
    done = restore(model, A, y, solver, steps, seeds=range(images))
    if failed := [error for error in done.errors if error]:
        raise RuntimeError(f"{name} in {dtype}: {len(failed)} of {images} failed, the first: {failed[0]}")
    error = (done.images.cpu() - x).square().flatten(1).mean(dim=1)
    return 10 * (PEAK**2 / error).log10()
