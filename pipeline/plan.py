"""What a job will cost, before it is spent: one step of the configured model measured, the rest computed.

Two kinds of figures, never mixed:

measured       seconds, peak memory and floating-point operations of real steps on this machine;
extrapolated   for an accelerator that is not here: those operations over its datasheet rate. The full rate
               is a bound that no run beats; `TYPICAL_SHARE` of it is what a plain implementation reaches.
"""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from p2l_engine import LatentDiffusion, restore
from p2l_engine.methods import Method
from p2l_engine.operators import LinearOperator
from pipeline import sources
from pipeline.accelerators import DATASHEET_TFLOPS, HERE, check_accelerator
from pipeline.config import JobConfig
from pipeline.degrade import measurements, prepare
from pipeline.images import encode_png
from pipeline.models import load
from pipeline.rows import InputRow

TYPICAL_SHARE = (
    0.3  # the paper's times on an RTX 3090, 333 s at K=0 to 1983 s at K=5, are 0.30 to 0.47 of its rate
)
LONG_ENOUGH = 30.0  # seconds; counting operations adds nothing that shows in a pass of this length


@dataclass(frozen=True)
class Measurement:
    """What the steps that were run cost, and from them the whole method; figures are of one image."""

    device: str
    image_shape: tuple[int, int, int]  # (3, H, W) of the restored image
    batch_size: int
    steps: int
    seconds: float
    teraflop: float
    nfe: int  # evaluations of the noise prediction
    peak_bytes: int  # of the GPU's allocator; without a GPU of the whole process, model included


@dataclass(frozen=True)
class Estimate:
    """What a number of images costs on one accelerator; n workers take 1/n of the hours and as many dollars.

    Each figure is (least, typical), equal where they are measured. Dollars are None without a price.
    """

    accelerator: str
    measured: bool
    seconds: tuple[float, float]  # an image
    hours: tuple[float, float]
    dollars: tuple[float, float] | None


def count_images(config: JobConfig) -> int:
    """The rows of the job's input, from its keys alone. Raises SourceError when it cannot be listed."""
    return sum(len(sources.keys(shard)) for shard in sources.list_shards(config.input, config.reading))


def measure(config: JobConfig) -> Measurement:
    """Load the configured model and run two steps of the configured method at the configured size.

    Where the configuration sets no size, the model's own. Raises what loading the model raises, and
    ValueError where the operator cannot apply to the size.
    """
    model = load(config.model)
    size = config.size or (model.native_size, model.native_size)
    config = config.model_copy(update={"mode": "measure", "size": size})
    batch = config.batch_size if isinstance(config.batch_size, int) else 1
    images = [prepare(_any_row(str(number), size), config) for number in range(batch)]
    A, y = measurements(images, config)
    return measure_steps(model, A, y, Method.model_validate(config.method))


def measure_steps(model: LatentDiffusion, A: LinearOperator, y: torch.Tensor, method: Method) -> Measurement:
    """Run a step with and a step without the projection, and count each as often as the method does.

    y: (B, *measurement), any values. The first pass warms up and counts operations, a second is timed; where
    the first is long already, its own times serve. Raises ValueError as `restore` does.
    """
    short = _two_steps(method)
    gpu = model.device if model.device.type == "cuda" else None
    if gpu is not None:
        torch.cuda.reset_peak_memory_stats(gpu)

    with OperationCounter() as counter:
        flop, seconds = _run(model, A, y, short, [lambda: counter.flop, time.perf_counter])
    if sum(seconds) < LONG_ENOUGH:
        (seconds,) = _run(model, A, y, short, [time.perf_counter])

    tuning = method.prompt_tuning.iterations if method.prompt_tuning else 0
    return Measurement(
        device=torch.cuda.get_device_name(gpu)
        if gpu is not None
        else f"CPU, {torch.get_num_threads()} threads",
        image_shape=A.image_shape(tuple(y.shape[1:])),
        batch_size=len(y),
        steps=method.steps,
        seconds=_whole(method, seconds) / len(y),
        teraflop=_whole(method, flop) / len(y) / 1e12,
        nfe=0 if method.name == "adjoint" else method.steps * (1 + tuning),
        peak_bytes=torch.cuda.max_memory_allocated(gpu) if gpu is not None else _peak_of_process(),
    )


def estimate(measured: Measurement, images: int, prices: Mapping[str, float]) -> list[Estimate]:
    """This machine first, then each accelerator with a price in USD per hour.

    A name is one of `DATASHEET_TFLOPS`, of `HERE`, or either with a suffix (`a100-spot`). Raises ValueError
    for any other.
    """
    own_price = next((usd for name, usd in prices.items() if check_accelerator(name) == HERE), None)
    here = _estimate(HERE, True, (measured.seconds, measured.seconds), images, own_price)
    return [here] + [
        _estimate(name, False, extrapolated_seconds(measured.teraflop, check_accelerator(name)), images, usd)
        for name, usd in prices.items()
        if check_accelerator(name) != HERE
    ]


def extrapolated_seconds(teraflop: float, accelerator: str) -> tuple[float, float]:
    """Seconds of so many operations on an accelerator of `DATASHEET_TFLOPS`: (least, typical)."""
    least = teraflop / DATASHEET_TFLOPS[accelerator]
    return least, least / TYPICAL_SHARE


class OperationCounter(TorchDispatchMode):
    """Counts the floating-point operations of matrix products, convolutions and attention, backward ones too.

    torch's own FlopCounterMode follows modules with hooks that fail under `torch.autograd.grad`; only its
    formulas are used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flop += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _any_row(key: str, size: tuple[int, int]) -> InputRow:
    """A picture of noise with a mask and a kernel; what a step costs does not depend on what it sees."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.ones(size, np.float32)
    mask[::2] = 0
    return InputRow(key, "", encode_png(pixels), mask=_npy(mask), kernel=_npy(np.ones((9, 9), np.float32)))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _two_steps(method: Method) -> Method:
    """The same method for two steps, the first of them (step 2) with the projection, if it has one."""
    if method.projection is None:
        return method.model_copy(update={"steps": min(2, method.steps)})
    return method.model_copy(
        update={"steps": 2, "projection": method.projection.model_copy(update={"every": 2})}
    )


def _run(
    model: LatentDiffusion,
    A: LinearOperator,
    y: torch.Tensor,
    method: Method,
    clocks: list[Callable[[], float]],
) -> list[list[float]]:
    """What each clock advanced in each step."""
    marks = [[clock() for clock in clocks]]
    restore(model, A, y, method, progress=lambda done, steps: marks.append([clock() for clock in clocks]))
    if len(marks) == 1:  # a method without steps
        marks.append([clock() for clock in clocks])
    return [[after - before for before, after in pairwise(column)] for column in zip(*marks, strict=True)]


def _whole(method: Method, cost: list[float]) -> float:
    """The cost of all steps, from that of the first (with the projection) and of the last (without)."""
    with_projection = method.steps // method.projection.every if method.projection else 0
    return with_projection * cost[0] + (method.steps - with_projection) * cost[-1]


def _peak_of_process() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _estimate(
    name: str, measured: bool, seconds: tuple[float, float], images: int, usd: float | None
) -> Estimate:
    least, typical = (images * second / 3600 for second in seconds)
    dollars = None if usd is None else (least * usd, typical * usd)
    return Estimate(name, measured, seconds, (least, typical), dollars)
