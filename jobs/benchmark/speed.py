"""How near to the machine's limit a method runs, and where time goes: ``python -m jobs.benchmark speed``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.benchmark import clock
from jobs.benchmark.clock import PARTS, Clock, Clocked, Ratio
from jobs.benchmark.literal import Literal
from jobs.tables import held_out
from jobs.tables.figures import line
from p2l_engine import restore
from p2l_engine.operators import LinearOperator
from p2l_engine.priors.architecture import read_architecture
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.priors.load import with_random_weights
from p2l_engine.restore import Restored, pose
from p2l_engine.solvers import Sampler, solve
from p2l_engine.solvers.p2l import P2L
from p2l_engine.tiny.data import to_tensor
from pipeline.config import JobConfig, load_config
from pipeline.cost.plan import count
from pipeline.output.folder import SUMMARY, OutputFolder
from pipeline.run.run import run as run_job
from pipeline.worker import models

GIB = 2**30
OPERATOR = {"name": "super_resolution", "factor": 4}
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COLUMNS = (
    "size",
    "K",
    "batch",
    "s an image",
    "TFLOP an image",
    "of the matrix rate",
    "peak memory, GiB",
    "time one at a time / together",
    "time uncompiled / compiled",
    "time of the literal loop / together",
    "differ by, grey levels",
)
GREY_LEVEL = 2 / 255
# By which images of a batch and alone may differ, in grey levels: kernels of other sizes add in other orders.
MOST_APART = {torch.float32: 1.0, torch.float64: 0.01, torch.float16: 8.0, torch.bfloat16: 8.0}


@dataclass(frozen=True)
class Request:
    """What is measured: each size with each batch size and each K of P2L, None for the preset's.

    model: an id; with random_weights its architecture alone, nothing of which is fetched. dtype: as a job's.
    steps: that are run, None for all of the method's. rounds: of each pair. images: of the pipeline's run, 0
    for none. preset: None for the model's own. compile: transformer blocks, beside the same ones as they are.
    literal: P2L by the preset `tiny`, beside its second writing in `literal`.
    """

    model: str
    random_weights: bool
    sizes: Sequence[int]
    batches: Sequence[int]
    iterations: Sequence[int | None]
    steps: int | None
    dtype: str
    rounds: int
    images: int
    method: str = "p2l"
    preset: str | None = None
    compile: bool = False
    literal: bool = False

    @property
    def settings(self) -> str:
        """The preset's name."""
        return self.preset or ("tiny" if self.model == "tiny" else "imagenet")

    def job(self, size: int, batch: int, iterations: int | None, steps: int | None = None) -> JobConfig:
        """The job of a setting."""
        method: dict[str, Any] = {"name": self.method, "preset": self.settings}
        if iterations is not None:
            method["prompt_tuning"] = {"iterations": iterations} if iterations else None
        settings = {
            "input": "images",
            "output": "restored",
            "model": {"id": self.model, "dtype": self.dtype, "compile": self.compile},
            "size": size,
            "operator": OPERATOR,
            "noise": 0,
            "method": method if steps is None else method | {"steps": steps},
            "batch_size": batch,
            "workers": 1,
        }
        return load_config(settings)


@dataclass(frozen=True)
class Cell:
    """A setting, measured. seconds, teraflop: an image, with all of the method's steps.

    seconds are scaled from the steps that ran by their counted operations. peak_bytes: of the batch with the
    weights, the GPU's own figure, on a CPU counted. shares: of the time, by part. against_alone,
    against_plain, against_literal: how many times as long the same images take one at a time, without
    compiled blocks, and one at a time by the literal loop. apart: by how many grey levels a pixel of the
    median image then differs at most; rounding grows along the steps, and sets a few images further apart.
    """

    size: int
    batch: int
    iterations: int
    seconds: float
    teraflop: float
    peak_bytes: float
    shares: dict[str, float]
    against_alone: Ratio | None
    against_plain: Ratio | None
    against_literal: Ratio | None
    apart: float


def run(request: Request) -> Iterator[str]:
    """Tables in Markdown. Raises RuntimeError where images differ by more than `MOST_APART`, or one fails."""
    model = load(request)
    rate = clock.matrix_rate(model.device, model.dtype, MATRIX_SIDE[model.device.type])
    settings = list(product(request.sizes, request.iterations, request.batches))
    yield _machine(request, model, rate)
    yield ""
    yield line(COLUMNS)
    yield line(["---:"] * len(COLUMNS))
    cells = []
    for size, iterations, batch in settings:
        cells.append(measure(request, model, size, batch, iterations))
        yield _row(cells[-1], rate)
    yield ""
    yield from _parts(cells)
    if request.images and not request.random_weights:
        job = request.job(request.sizes[0], max(request.batches), request.iterations[0], request.steps)
        yield ""
        yield from _pipeline(job, model, request.images)


def load(request: Request) -> LatentDiffusion:
    """The model of a request. Raises what `p2l_engine.load_model` raises."""
    config = request.job(request.sizes[0], 1, 0).model
    if not request.random_weights:
        return models.load_latent(config)
    device, dtype = models.computing(config)
    architecture = read_architecture(config.id)
    model = with_random_weights(architecture, device=device, dtype=dtype, compile=request.compile)
    if not isinstance(model, LatentDiffusion):
        raise ValueError(f"model {config.id!r}: it is a {model.kind} model, allowed: a latent one")
    return model


def measure(request: Request, model: LatentDiffusion, size: int, batch: int, iterations: int | None) -> Cell:
    """One setting, a batch of several beside the same images one at a time."""
    counted = ran = count(request.job(size, batch, iterations))
    job = request.job(size, batch, iterations, request.steps)
    if request.steps is not None:
        ran = count(job)
    C = _random_prompts(model, batch) if request.random_weights else model.embed_prompts([""] * batch)
    work = Work.of(model, job, C)
    for places in (slice(None), slice(1)):  # warms up, and compiles
        work.run(places, steps=1)
    images: dict[str, Tensor] = {}
    peak = counted.peak_bytes * model.dtype.itemsize / counted.item_bytes

    def together() -> None:
        nonlocal peak
        on_gpu = model.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(model.device)
        images["together"] = work.run().images
        if on_gpu:
            peak = torch.cuda.max_memory_allocated(model.device)

    variants = {"together": together}
    if batch > 1:
        variants["alone"] = lambda: images.update(alone=work.one_at_a_time())
    if request.compile:
        variants["plain"] = lambda: images.update(plain=work.uncompiled())
    if request.literal:
        literal = Literal.load(model.dtype, model.device)
        variants["literal"] = lambda: images.update(literal=work.by_the_literal(literal))
    seconds = clock.timed(variants, request.rounds, clock.reader(model.device))
    apart = max(_apart(images["together"], other) for other in images.values())
    if apart > MOST_APART[model.dtype]:
        raise RuntimeError(
            f"images of a batch of {batch} differ by {apart:.1f} grey levels, the median one, from each "
            "alone or uncompiled"
        )
    against = {name: clock.ratio(took, seconds["together"]) for name, took in seconds.items()}
    return Cell(
        size,
        batch,
        _iterations(job),
        seconds=min(seconds["together"]) / batch * counted.teraflop / ran.teraflop,
        teraflop=counted.teraflop,
        peak_bytes=peak,
        shares=work.shares(),
        against_alone=against.get("alone"),
        against_plain=against.get("plain"),
        against_literal=against.get("literal"),
        apart=apart,
    )


def _apart(images: Tensor, others: Tensor) -> float:
    """Grey levels, (B, 3, H, W) each."""
    return float((images - others).abs().flatten(1).amax(dim=1).median()) / GREY_LEVEL


def _random_prompts(model: LatentDiffusion, count: int) -> Tensor:
    """Embeddings for a model without a tokenizer. Trained weights' tuning of them magnifies rounding."""
    return torch.randn(count, *model.embedding_shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Work:
    """A batch that is restored: operator, measurements and prompts' embeddings (B, L, D)."""

    model: LatentDiffusion
    solver: Sampler
    A: LinearOperator
    y: Tensor
    C: Tensor

    @staticmethod
    def of(model: LatentDiffusion, job: JobConfig, C: Tensor) -> Work:
        """Crops of photographs, measured as the job says."""
        solver, sides, count = job.method, job.sides, len(C)
        assert isinstance(solver, Sampler) and sides is not None
        x = to_tensor(np.stack([pixels for _, pixels, _ in held_out.photographs(count, side=sides[0])]))
        A = job.operator.example(count, (3, *sides))
        y = A.measure(x, job.noise, [torch.Generator() for _ in range(count)])
        return Work(model, solver, A, y, C)

    def run(self, places: slice = slice(None), steps: int | None = None) -> Restored:
        """Those of the batch, together. Raises RuntimeError where one fails."""
        seeds = range(len(self.y))[places]
        A, y, C = self.A.select(seeds), self.y[places], self.C[places]
        done = restore(self.model, A, y, self.solver, steps, seeds=seeds, prompt_embeddings=C)
        if failed := [error for error in done.errors if error]:
            raise RuntimeError(f"{len(failed)} of {len(y)} images failed, the first: {failed[0]}")
        return done

    def one_at_a_time(self) -> Tensor:
        """The images (B, 3, H, W), each by a call of its own."""
        return torch.cat([self.run(slice(place, place + 1)).images for place in range(len(self.y))])

    def uncompiled(self) -> Tensor:
        """The images (B, 3, H, W), by blocks as they are."""
        with torch.compiler.set_stance("force_eager"):
            return self.run().images

    def by_the_literal(self, loop: Literal) -> Tensor:
        """The images (B, 3, H, W), each by a loop of its own."""
        problem = pose(self.model, self.A, self.y, seeds=range(len(self.y)), prompt_embeddings=self.C)
        assert isinstance(self.solver, P2L)
        z = problem.first_latents(self.model)
        alone = [(problem.select([place]), z[place : place + 1]) for place in range(len(z))]
        return torch.cat([loop.restore(one, self.solver, first) for one, first in alone])

    def shares(self) -> dict[str, float]:
        """Of the time, by part."""
        watch = Clock(clock.reader(self.model.device))
        problem = pose(self.model, self.A, self.y, seeds=range(len(self.y)), prompt_embeddings=self.C)
        operator: Any = Clocked(problem.A, clock.OPERATOR, watch)
        prior: Any = Clocked(self.solver.around(self.model), clock.PRIOR, watch)
        solve(prior, self.solver, replace(problem, A=operator), None)
        watch.switch(clock.REST)
        whole = sum(watch.seconds.values())
        return {part: seconds / whole for part, seconds in watch.seconds.items()}


def _machine(request: Request, model: LatentDiffusion, rate: float) -> str:
    on_gpu = model.device.type == "cuda"
    cpu = f"{clock.processor()}, threads: {torch.get_num_threads()}"
    device = torch.cuda.get_device_name(model.device) if on_gpu else cpu
    method = f"{request.method}, {request.settings}"
    of = f"{request.model}, random weights" if request.random_weights else request.model
    dtype = "tf32" if request.dtype == "tf32" else str(model.dtype).removeprefix("torch.")
    side = MATRIX_SIDE[model.device.type]
    product = f"a product of two {side}x{side} matrices: {rate / 1e12:.3g} TFLOP/s"
    return f"{device}; {of}; {method}; {dtype}; {product}"


def _row(cell: Cell, rate: float) -> str:
    """A line of the table of `COLUMNS`."""
    share = cell.teraflop * 1e12 / cell.seconds / rate
    figures = [f"{cell.seconds:.3g}", f"{cell.teraflop:.4g}", f"{share:.0%}", f"{cell.peak_bytes / GIB:.2f}"]
    pairs = [
        "" if one is None else str(one)
        for one in (cell.against_alone, cell.against_plain, cell.against_literal)
    ]
    return line([*_setting(cell), *figures, *pairs, f"{cell.apart:.4f}" if any(pairs) else ""])


def _parts(cells: Sequence[Cell]) -> Iterator[str]:
    yield line(["size", "K", "batch", *PARTS])
    yield line(["---:"] * (3 + len(PARTS)))
    for cell in cells:
        yield line([*_setting(cell), *(f"{cell.shares[part]:.1%}" for part in PARTS)])


def _setting(cell: Cell) -> list[str]:
    return [str(cell.size), str(cell.iterations), str(cell.batch)]


def _pipeline(job: JobConfig, model: LatentDiffusion, images: int) -> Iterator[str]:
    """The same images by a run of the pipeline on one actor and by a bare loop; by the clock on the wall."""
    assert job.sides is not None and isinstance(job.batch_size, int)
    work = Work.of(model, job, model.embed_prompts([""] * images))
    start = time.perf_counter()
    for first in range(0, images, job.batch_size):
        work.run(slice(first, first + job.batch_size))
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    loop = time.perf_counter() - start
    with tempfile.TemporaryDirectory(prefix="p2l-speed-") as folder:
        held_out.write(f"{folder}/in/a.parquet", held_out.photographs(images, side=job.sides[0]))
        urls = {"input": (f"{folder}/in",), "output": f"{folder}/out"}
        start = time.perf_counter()
        done = run_job(job.model_copy(update=urls))
        whole = time.perf_counter() - start
        if done.ok != images:
            raise RuntimeError(f"{done.ok} of {images} rows are ok")
        cost = OutputFolder(f"{folder}/out").json(SUMMARY)["cost"]
    yield line(
        [f"{images} images, {job.batch_size} at a time, K = {_iterations(job)}", "s", "of the bare loop"]
    )
    yield line(["---", "---:", "---:"])
    for name, seconds in (
        ("`restore` in a bare loop", loop),
        ("`restore` in the actor", cost["row_seconds"]),
        ("the actor, from its start to its last commit", cost["worker_seconds"]),
        ("the command, with Ray's start", whole),
    ):
        yield line([name, f"{seconds:.2f}", f"{seconds / loop:.2f}"])


def _iterations(job: JobConfig) -> int:
    tuning = getattr(job.method, "prompt_tuning", None)
    return tuning.iterations if tuning else 0
