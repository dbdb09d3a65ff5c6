"""What a job will cost, before it is spent: its operations and memory counted, the rest computed from them.

Three kinds of figures, never mixed:

counted        operations, network calls and memory, on tensors without data (`p2l_engine.counting`): in
               seconds for a model of any size, whose weights need not be here;
measured       seconds and peak memory of real steps on this machine;
extrapolated   for an accelerator that is not here: those operations over its datasheet rate, for the dtype
               that the job takes there. The full rate is a bound that no run beats; `TYPICAL_SHARE` of it is
               what a plain implementation reaches.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from p2l_engine.counting import OperationCounter, Part, count_solver, parts
from p2l_engine.operators import LinearOperator
from p2l_engine.operators.base import ImageShape
from p2l_engine.priors.load import Model, without_weights
from p2l_engine.restore import pose
from p2l_engine.solvers import Solver, evaluations
from pipeline import feasible
from pipeline.accelerators import HERE, ITEM_BYTES, check_accelerator, datasheet_tflops, dtype_on
from pipeline.config import JobConfig
from pipeline.input import sources
from pipeline.input.rows import LeftOut
from pipeline.worker.models import dtype_here, load

TYPICAL_SHARE = (
    0.3  # the paper's times on an RTX 3090, 333 s at K=0 to 1983 s at K=5, are 0.30 to 0.47 of its rate
)
QUICK_TERAFLOP = 1.0
LONG_ENOUGH = 30.0  # seconds; counting operations adds nothing that shows in a pass of this length


@dataclass(frozen=True)
class Measurement:
    """What a job's method costs; figures are of one image, `batch_size` of them restored together.

    device, seconds: of the steps that were run here; None where operations and memory were only counted.
    """

    device: str | None
    image_shape: tuple[int, int, int]  # (3, H, W) of the restored image
    batch_size: int
    steps: int
    seconds: float | None
    teraflop: float
    nfe: int  # evaluations of the noise prediction
    peak_bytes: int  # counted, or of the GPU's allocator; without a GPU of the whole process, model included
    least_bytes: int | None = None  # counted, of one image alone with activation checkpointing
    item_bytes: int = 4  # of a number of the dtype that had this peak
    dtype: str = "auto"  # the job's

    def bytes_on(self, accelerator: str) -> float:
        """Memory that the batch needs in the dtype that the job takes on an accelerator."""
        return self.peak_bytes * ITEM_BYTES[dtype_on(accelerator, self.dtype)] / self.item_bytes

    def least_on(self, accelerator: str) -> float:
        """Memory that the job cannot do without, in the dtype that it takes on an accelerator."""
        if self.least_bytes is None:
            return self.bytes_on(accelerator)
        return self.least_bytes * ITEM_BYTES[dtype_on(accelerator, self.dtype)] / ITEM_BYTES["float32"]

    @property
    def is_quick(self) -> bool:
        """Whether two steps take no more than a minute or so on a CPU."""
        return 2 * self.teraflop / max(self.steps, 1) * self.batch_size <= QUICK_TERAFLOP


@dataclass(frozen=True)
class Estimate:
    """What a number of images costs on one accelerator; n workers take 1/n of the hours and as many dollars.

    Each figure is (least, typical), equal where they are measured. Dollars are None without a price.
    """

    accelerator: str
    dtype: str
    measured: bool
    seconds: tuple[float, float]  # an image
    hours: tuple[float, float]
    dollars: tuple[float, float] | None


def count_images(config: JobConfig) -> tuple[int, tuple[LeftOut, ...]]:
    """The rows of the job's input, from its keys alone, and what of it becomes none.

    Raises SourceError when it cannot be listed.
    """
    listed = sources.listing(config.input, config.reading)
    found = [sources.inventory(shard) for shard in listed.shards]
    left_out = (*listed.left_out, *(one for inventory in found for one in inventory.left_out))
    return sum(len(inventory.keys) for inventory in found), left_out


def count(config: JobConfig) -> Measurement:
    """Operations and memory of the configured method at the configured size, without the model's weights.

    Where the configuration sets no size, the model's own. Raises ValueError where the operator cannot apply
    to the size, and OSError where the model's configuration cannot be read.
    """
    architecture = feasible.architecture_of(config.model, config.storage)
    solver = config.method
    A, y = _shapes(config, architecture.native_size)
    image, batch = A.image_shape(tuple(y.shape[1:])), len(y)
    model = None if solver.prior is None else without_weights(architecture, config.model.id)
    found = count_solver(model, image, tuple(y.shape[1:]), batch, solver)
    held = (model.weight_bytes if model else 0) + solver.load(model)
    return Measurement(
        device=None,
        image_shape=image,
        batch_size=batch,
        steps=len(solver.schedule(model)),
        seconds=None,
        teraflop=found.flop / 1e12,
        nfe=found.nfe,
        peak_bytes=held + found.step_bytes,
        least_bytes=held + _least_step_bytes(model, image, solver) if model else None,
        dtype=config.model.dtype,
    )


def _least_step_bytes(model: Model, image: ImageShape, solver: Solver) -> int:
    model.checkpoint_activations(True)
    return count_solver(model, image, image, 1, solver.brief()).step_bytes


def measure(config: JobConfig) -> Measurement:
    """Load the configured model and run one step of each kind of the method at the configured size.

    Where the configuration sets no size, the model's own. Raises what loading the model raises, and
    ValueError where the operator cannot apply to the size.
    """
    solver = config.method
    model = None if solver.prior is None else load(config.model, solver.prior)
    A, y = _shapes(config, feasible.architecture_of(config.model, config.storage).native_size)
    measured = measure_steps(model, A, y, solver, compiled=config.model.compile)
    return replace(measured, dtype=config.model.dtype)


def _shapes(config: JobConfig, native_size: int) -> tuple[LinearOperator, torch.Tensor]:
    """The operator and the measurements of a batch of pictures of noise."""
    size = config.sides or (native_size, native_size)
    batch = config.batch_size if isinstance(config.batch_size, int) else 1
    A = config.operator.example(batch, (3, *size))
    x = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return A, A.measure(x, config.noise, [torch.Generator().manual_seed(n) for n in range(batch)])


def measure_steps(
    model: Model | None, A: LinearOperator, y: torch.Tensor, solver: Solver, *, compiled: bool = False
) -> Measurement:
    """Run a step of each kind, and count each as often as the solver does.

    y: (B, *measurement), any values. The first pass warms up and counts operations, a second is timed; where
    the first is long already, its own time serves. compiled: whether blocks of the model are; they count as
    they are uncompiled, and are compiled in a pass between. Raises ValueError as `restore` does.
    """
    gpu = model.device if model is not None and model.device.type == "cuda" else None
    if gpu is not None:
        torch.cuda.reset_peak_memory_stats(gpu)
    seconds, flop, nfe = 0.0, 0, 0
    for part in parts(model, solver, pose(model, A, y)):
        with torch.compiler.set_stance("force_eager"), OperationCounter() as counter:
            took, calls = _timed(part, model, gpu)
        if compiled:
            part.run()
        if compiled or took < LONG_ENOUGH:
            took, _ = _timed(part, model, gpu)
        seconds += part.times * took
        flop += part.times * counter.flop
        nfe += part.times * calls
    return Measurement(
        device=f"CPU, {torch.get_num_threads()} threads" if gpu is None else torch.cuda.get_device_name(gpu),
        image_shape=A.image_shape(tuple(y.shape[1:])),
        batch_size=len(y),
        steps=len(solver.schedule(model)),
        seconds=seconds / len(y),
        teraflop=flop / len(y) / 1e12,
        nfe=nfe // len(y),
        peak_bytes=_peak_of_process() if gpu is None else torch.cuda.max_memory_allocated(gpu),
        item_bytes=4 if model is None else model.dtype.itemsize,
    )


def _timed(part: Part, model: Model | None, gpu: torch.device | None) -> tuple[float, int]:
    """Seconds and noise predictions of one pass through a part."""
    start, before = time.perf_counter(), evaluations(model)
    part.run()
    if gpu is not None:
        torch.cuda.synchronize(gpu)
    return time.perf_counter() - start, evaluations(model) - before


def estimate(measured: Measurement, images: int, prices: Mapping[str, float]) -> list[Estimate]:
    """This machine first, where it was measured, then each accelerator with a price in USD per hour.

    A name is one of `ACCELERATORS`, of `HERE`, or either with a suffix (`a100-spot`). Raises ValueError for
    any other.
    """
    found = []
    if measured.seconds is not None:
        own_price = next((usd for name, usd in prices.items() if check_accelerator(name) == HERE), None)
        on_cpu = measured.device is None or measured.device.startswith("CPU")
        dtype = dtype_here(measured.dtype, "cpu" if on_cpu else "cuda")
        seconds = (measured.seconds, measured.seconds)
        found.append(_estimate(HERE, dtype, True, seconds, images, own_price))
    for name, usd in prices.items():
        accelerator = check_accelerator(name)
        if accelerator != HERE:
            dtype = dtype_on(accelerator, measured.dtype)
            seconds = extrapolated_seconds(measured.teraflop, accelerator, dtype)
            found.append(_estimate(name, dtype, False, seconds, images, usd))
    return found


def extrapolated_seconds(teraflop: float, accelerator: str, dtype: str) -> tuple[float, float]:
    """Seconds of so many operations on an accelerator of `ACCELERATORS`: (least, typical)."""
    least = teraflop / datasheet_tflops(accelerator, dtype)
    return least, least / TYPICAL_SHARE


def _peak_of_process() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _estimate(
    name: str, dtype: str, measured: bool, seconds: tuple[float, float], images: int, usd: float | None
) -> Estimate:
    least, typical = (images * second / 3600 for second in seconds)
    dollars = None if usd is None else (least * usd, typical * usd)
    return Estimate(name, dtype, measured, seconds, (least, typical), dollars)
