"""`python -m jobs.benchmark NAME`, where NAME is one of the commands below."""

import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from jobs.benchmark import memory as memory_benchmark
from jobs.benchmark import motion as motion_benchmark
from jobs.benchmark import packing as packing_benchmark
from jobs.benchmark import precision as precision_benchmark
from jobs.benchmark import prompts as prompts_benchmark
from jobs.benchmark import quality as quality_benchmark
from jobs.benchmark import scale as scale_benchmark
from jobs.benchmark import speed as speed_benchmark
from jobs.benchmark import store as store_benchmark
from jobs.benchmark import tail as tail_benchmark
from jobs.benchmark import tune as tuning
from jobs.benchmark.overhead import busy as busy_benchmark
from jobs.benchmark.overhead import rows as rows_benchmark
from jobs.benchmark.overhead import start as start_benchmark
from jobs.faults import chaos as chaos_benchmark
from jobs.faults import fuzz as fuzzing
from jobs.faults import preemptions as preemption_benchmark
from jobs.tables import figures, held_out
from jobs.tables import grid as grids
from jobs.tables import pareto as curve
from pipeline.prices import load_prices
from pipeline.stores import storage

MACHINE = "a2-highgpu-1g-spot"  # whose price the lost hours have

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help=f"One of: {', '.join(quality_benchmark.TASKS)}. Default: all."),
]
Out = Annotated[str, typer.Option(help="Folder of the cells' outputs; what is there is not done again.")]
Images = Annotated[int, typer.Option(min=2, help="Held-out images.")]
Steps = Annotated[int | None, typer.Option(help="DDIM steps, instead of the preset's.")]


@app.command()
def quality(
    out: Out = "quality",
    images: Images = 28,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Steps = None,
    kind: Annotated[
        list[str] | None, typer.Option(help=f"One of: {', '.join(quality_benchmark.KINDS)}. Default: all.")
    ] = None,
    task: Tasks = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"One of: {', '.join(quality_benchmark.ROWS)}. Default: all.")
    ] = None,
) -> None:
    """Restore held-out images by every method; print a table a kind, with each image's in its quality.csv."""
    known, tasks = quality_benchmark.ROWS, _tasks(task)
    rows = {name: known[name] for name in _known("method", method, list(known))}
    for name in _known("kind", kind, list(quality_benchmark.KINDS)):
        folder = storage.join(out, name)
        cells = _folder(folder, images)
        grid = _table(tasks, rows, cells, quality_benchmark.KINDS[name](images), seeds, steps)
        storage.write_text(storage.join(folder, "quality.csv"), figures.records(grid, cells, seeds))
        table = figures.read(grid, cells, seeds)
        print(f"## {name}", figures.overview(grid, table), figures.every_figure(grid, table), sep="\n\n")


@app.command()
def pareto(
    out: Out = "pareto",
    images: Images = 16,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    task: Tasks = None,
    way: Annotated[
        list[str] | None,
        typer.Option(help=f"One of: {', '.join(curve.WAYS)}. Default: all but {curve.LONG}."),
    ] = None,
) -> None:
    """Restore held-out images in ways of every cost; print and draw quality against cost (pareto.png)."""
    short = [name for name in curve.WAYS if name != curve.LONG]
    chosen = {name: curve.WAYS[name] for name in _known("way", way or short, list(curve.WAYS))}
    if curve.LONG in chosen:
        slowly = curve.tuned_slowly(quality_benchmark.TASKS)
        chosen[curve.LONG] = replace(chosen[curve.LONG], by_column=slowly)
    rows = chosen | {curve.FIRST: curve.WAYS[curve.FIRST]}
    cells = _folder(out, images)
    grid = _table(_tasks(task), rows, cells, held_out.examples(images), seeds)
    for said in grids.score(grid, cells, seeds):
        print(said, flush=True)
    found = curve.points(grid, cells, seeds)
    curve.draw(storage.join(out, "pareto.png"), found)
    print(curve.table(found))


@app.command()
def tail(
    actors: Annotated[int, typer.Option(min=1)] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Images of a micro-batch.")] = 8,
    seconds: Annotated[float, typer.Option(min=0, help="Of a full micro-batch.")] = 300.0,
    fixed: Annotated[float, typer.Option(min=0, max=1, help="Share that one image takes as well.")] = 0.0,
) -> None:
    """Simulate the ends of runs on a pool of actors, with the last items as large as all and shared out."""
    pool = tail_benchmark.Pool(actors, batch, seconds, fixed)
    print(tail_benchmark.table(pool, (40, 200, 1000, 3000)))


@app.command()
def tune(
    grid: Annotated[str, typer.Argument(help=f"One of: {', '.join(tuning.GRIDS)}.")],
    out: Out = "tune",
    images: Images = 16,
    steps: Steps = None,
    task: Tasks = None,
) -> None:
    """Try a grid of settings on images apart from the reported ones."""
    _known("grid", [grid], list(tuning.GRIDS))
    apart, cells = held_out.examples(images, held_out.TUNED_ON), _folder(out, images)
    tried = _table(_tasks(task), tuning.rows(grid), cells, apart, 1, steps)
    print(figures.every_figure(tried, figures.read(tried, cells, 1)))


@app.command()
def prompts(
    task: Annotated[str, typer.Option(help=f"One of: {', '.join(quality_benchmark.TASKS)}.")] = "SR x4",
    out: Out = "prompts",
    images: Images = 32,
) -> None:
    """Restore from prompts that were tuned before, each image's own and the mean of others."""
    _tasks([task])
    for line in prompts_benchmark.run(task, images, _folder(out, images)):
        print(line, flush=True)


def _folder(out: str, images: int) -> str:
    """Of the cells of a table of so many images."""
    return storage.join(out, f"{images} images")


def _tasks(given: list[str] | None) -> list[str]:
    return _known("task", given, list(quality_benchmark.TASKS))


def _table(
    tasks: list[str],
    rows: dict[str, grids.Part],
    out: str,
    images: list[held_out.Example],
    seeds: int,
    steps: int | None = None,
) -> grids.Grid:
    """Computes what is missing of a table of images."""
    grid = quality_benchmark.grid(tasks, rows, quality_benchmark.shards(out, images), steps)
    for line in grids.run(grid, out, seeds):
        print(line, flush=True)
    return grid


@app.command()
def fuzz(
    mutations: Annotated[int, typer.Option(min=1, help="Damaged files to try.")] = 2000,
    seed: Annotated[int, typer.Option(help="Another seed damages the files in other ways.")] = 0,
    failures: Annotated[Path, typer.Option(help="Folder for the files of failures.")] = Path("fuzz-failures"),
) -> None:
    """Damage real files and see that each becomes `ok` and `error` rows or is refused; else status 1."""
    start = time.monotonic()
    outcomes = fuzzing.run(mutations, seed)
    print(fuzzing.table(outcomes))
    print(f"{mutations} files, seed {seed}, {time.monotonic() - start:.0f} s in all.")
    for outcome in outcomes:
        if outcome.failure is not None:
            print(f"failure: {outcome.kind} {outcome.number}: {outcome.failure}")
    if paths := fuzzing.save(outcomes, seed, failures):
        print(f"Their files: {failures}")
        raise typer.Exit(len(paths) > 0)


@app.command()
def chaos(
    kills: Annotated[int, typer.Option(min=1, help="How many, of all kinds in turn.")] = 20,
    seed: Annotated[int, typer.Option(help="Draws their order and moments.")] = 0,
    preemptions: Annotated[
        bool, typer.Option("--preemptions", help="Lose machines alone, a tenth of them without a word.")
    ] = False,
) -> None:
    """Kill a job's driver, actors, nodes and cluster on loopback; exit 1 unless its output stays exact."""
    raise typer.Exit(1 if chaos_benchmark.run(kills, seed, preemptions) else 0)


@app.command()
def preemptions(
    machines: Annotated[int, typer.Option(min=1)] = 32,
    images: Annotated[int, typer.Option(min=1)] = 100_000,
    seconds: Annotated[float, typer.Option(help="An image takes so long; `p2l plan` says how long.")] = 272,
    rate: Annotated[list[float] | None, typer.Option(help="Losses an hour of a machine; repeatable.")] = None,
    sudden: Annotated[list[float] | None, typer.Option(help="Share of them without a word.")] = None,
    item: Annotated[int, typer.Option(min=1, help="Images to an item of work.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Images to a micro-batch.")] = 1,
    killers: Annotated[int, typer.Option(min=0, help="Rows that end each process that has them.")] = 10,
    seed: Annotated[int, typer.Option(help="Draws the moments of the losses.")] = 0,
) -> None:
    """Simulate a run on machines that are taken away, by the pipeline's own rules; no Ray, no model."""
    prices = load_prices()
    settings = [
        preemption_benchmark.Setting(
            machines, images, seconds, losses, share, item, batch, 60 * prices.start_minutes, killers
        )
        for share in sudden or [0.1, 1.0]
        for losses in rate or [0.1, 0.2, 0.5]
    ]
    print(preemption_benchmark.table(settings, prices.of_a_worker()[MACHINE], seed))


@app.command()
def rows(
    count: Annotated[int, typer.Option(min=64)] = 512,
    side: Annotated[int, typer.Option(min=16, help="Of the images, in pixels.")] = 64,
) -> None:
    """Print what rows that cost nothing to restore cost, by what is done with them."""
    print(rows_benchmark.run(count, side))


@app.command()
def scale(
    rows: Annotated[int, typer.Option(min=100)] = 10_000,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows to a shard.")] = 1000,
    commit_every: Annotated[
        int | None, typer.Option(help="Rows to a commit. Default: the pipeline's.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to work. Default: the temporary folder.")] = None,
) -> None:
    """Run the pipeline on tiny rows and print its speed, the driver's memory and the number of files."""
    print(scale_benchmark.run(rows, shard_rows, commit_every, folder))


@app.command()
def memory(
    model: Annotated[str, typer.Option(help="Whose steps are counted, without its weights.")] = (
        "CompVis/stable-diffusion-v1-4"
    ),
    side: Annotated[int, typer.Option(min=64, help="Side at which steps of the shipped model run.")] = 384,
) -> None:
    """Count a step's peak memory by size and method, and hold the count against steps on this CPU."""
    for line in chain(memory_benchmark.measured("tiny", side), [""], memory_benchmark.counted(model)):
        print(line, flush=True)


@app.command()
def speed(
    model: Annotated[str, typer.Option(help="A latent model's id.")] = "tiny",
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Of the model its architecture alone: nothing is fetched."),
    ] = False,
    size: Annotated[list[int] | None, typer.Option(help="Side in pixels; repeatable. Default: 64.")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images together; repeatable. Default: 1 and 8.")
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Iterations of P2L's prompt tuning. Default: 0 and 1, or a preset's own."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="That are run; figures are scaled to all. Default: all.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="As in a job's model block.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Of each pair.")] = 3,
    images: Annotated[int, typer.Option(min=0, help="Of the pipeline's run; 0: none.")] = 16,
    method: Annotated[str, typer.Option(help="Of a latent model.")] = "p2l",
    preset: Annotated[str | None, typer.Option(help="Default: tiny, or imagenet for other models.")] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Transformer blocks, beside the same ones as they are.")
    ] = False,
    literal: Annotated[
        bool, typer.Option("--literal", help="Beside P2L of the preset tiny, a plain loop, one at a time.")
    ] = False,
) -> None:
    """Time a method here: its share of the matrix rate, time by part, batches, the pipeline's overhead."""
    if literal and (model, random_weights, method, preset or "tiny") != ("tiny", False, "p2l", "tiny"):
        raise typer.BadParameter("allowed: with p2l, the model and preset tiny", param_hint="--literal")
    tuned = [0, 1] if method == "p2l" and preset is None else [None]
    request = speed_benchmark.Request(
        model,
        random_weights,
        size or [64],
        batch or [1, 8],
        k or tuned,
        steps,
        dtype,
        rounds,
        images,
        method,
        preset,
        compile,
        literal,
    )
    for line in speed_benchmark.run(request):
        print(line, flush=True)


@app.command()
def busy(
    seconds: Annotated[float, typer.Option(min=0, help="Of a micro-batch.")] = 1.0,
    batch: Annotated[int, typer.Option(min=1, help="Images of a micro-batch.")] = 8,
    count: Annotated[int, typer.Option(min=2, help="Micro-batches.")] = 40,
    side: Annotated[int, typer.Option(min=16, help="Of the images, in pixels.")] = 512,
) -> None:
    """Run the pipeline with a solver that sleeps in a device's stead, and print how busy it is kept."""
    print(busy_benchmark.run(seconds, batch, count, side))


@app.command()
def start() -> None:
    """Time what passes before the first image of a run with the shipped model, and the parts of it."""
    for line in start_benchmark.run():
        print(line, flush=True)


@app.command()
def precision(
    images: Images = 8,
    steps: Steps = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"Default: all. {', '.join(precision_benchmark.METHODS)}."),
    ] = None,
) -> None:
    """Restore held-out images with networks in float32 and both half types, and print their PSNR."""
    names = _known("method", method, list(precision_benchmark.METHODS))
    for row in precision_benchmark.table(names, images, steps):
        print(row, flush=True)


@app.command()
def motion(
    kernels: Annotated[int, typer.Option(min=2, help="Kernels to draw for each intensity.")] = 96,
    size: Annotated[int, typer.Option(min=3, help="Side of a kernel in pixels, odd.")] = 61,
    intensity: Annotated[list[float] | None, typer.Option(help="Default: 0, 0.5 and 1.")] = None,
) -> None:
    """Print how hard drawn motion kernels are to undo."""
    print(motion_benchmark.run(kernels, size, intensity or (0, 0.5, 1)))


@app.command()
def store(
    rows: Annotated[int, typer.Option(min=1)] = 100_000,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows to a shard.")] = 1000,
    sample: Annotated[int, typer.Option(min=0, help="Rows that are checked in full.")] = 1000,
    in_full: Annotated[bool, typer.Option(help="Check every row in full as well.")] = True,
) -> None:
    """Look at a whole output on an S3 server on loopback and print the requests and seconds of each look."""
    print(store_benchmark.run(rows, shard_rows, sample, in_full))


@app.command()
def packing(
    files: Annotated[int, typer.Option(min=1)] = 10_000,
    milliseconds: Annotated[
        float, typer.Option(min=0, help="By which each answer of the store is late.")
    ] = 50,
    readers: Annotated[list[int] | None, typer.Option(help="Requests at once. Default: 1 and 16.")] = None,
) -> None:
    """Pack small files of a slow object store into shards, and print how long that takes."""
    print(packing_benchmark.run(files, milliseconds, readers or [1, 16]))


def _known(what: str, given: list[str] | None, allowed: list[str]) -> list[str]:
    for name in given or []:
        if name not in allowed:
            raise typer.BadParameter(f"{what} is {name!r}; one of {', '.join(allowed)} is needed")
    return given or allowed


if __name__ == "__main__":
    app()
