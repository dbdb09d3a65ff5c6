"""`p2l plan`: what a job will cost, before it is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import configs
from jobs.console import BadRequest, output, readable_errors, run_alone, table, tell_left_out, warn
from jobs.restore import CONFIG_HELP, SET_HELP

if TYPE_CHECKING:
    from pipeline.config.caption import CaptionConfig
    from pipeline.cost.machines import MachineEstimate
    from pipeline.cost.plan import Estimate, Measurement
    from pipeline.prices import Prices

PRICE_HELP = "An accelerator's price, as a100=3.67 or a100-spot=1.29; repeatable. This machine is `here`."
MEASURE_HELP = "Load the model and run two real steps on this machine; a price for `here` asks for it, too."
PRICES_HELP = "Price file of machine types, spot and on demand, to use instead of the shipped one."


@readable_errors()
def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, show_default=False)],
    price: Annotated[list[str] | None, typer.Option(metavar="NAME=USD_PER_HOUR", help=PRICE_HELP)] = None,
    prices: Annotated[str | None, typer.Option(metavar="FILE", help=PRICES_HELP)] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images to plan for; by default the rows of the job's input.")
    ] = None,
    run: Annotated[bool, typer.Option("--measure", help=MEASURE_HELP)] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help=SET_HELP)] = None,
) -> None:
    """Count what the job computes and holds, without weights, and say hours, memory, calls and dollars.

    Figures for accelerators are extrapolated from the operations and datasheet rates, and say so; so are
    those for the machine types of the price file, the cheapest of which is named. A model on this machine
    whose steps are small is measured as well.

    Example: p2l plan sr8 --images 10000 --price a100=3.67 --price a100-spot=1.29
    """
    from p2l_engine.mistakes import Mistakes
    from p2l_engine.priors.fetch import is_local
    from pipeline.config import load_config
    from pipeline.cost.machines import machine_estimates
    from pipeline.cost.plan import count, count_images, estimate, measure
    from pipeline.feasible import slow_dtype, warnings
    from pipeline.prices import load_prices
    from pipeline.run.pool import commit_every
    from pipeline.stores.storage_options import configure

    job = load_config(configs.locate(config), settings or ())
    configure(job.storage)
    warn(*warnings(job), *(slow_dtype(job.model.dtype) if job.model.device != "cpu" else []))
    accelerators = _prices(price or ())
    try:
        file = load_prices(prices)
    except Mistakes as mistakes:
        raise BadRequest(*mistakes.problems) from mistakes
    rows, left_out = count_images(job) if images is None else (images, ())
    tell_left_out(left_out)
    try:
        found = count(job)
        _show_counted(found)
        if run or _wants_own_price(accelerators) or (found.is_quick and is_local(job.model.id)):
            found = replace(measure(job), least_bytes=found.least_bytes)
            _show_measured(found)
    except ValueError as error:  # of the model's name, or the operator on this size
        raise BadRequest(str(error)) from error
    if job.mode == "restore" and found.image_shape:
        _, height, width = found.image_shape
        warn(f"counted for restored images of {height}x{width}; how large they are the measurements decide")
    commit = commit_every(job, "cuda")
    _show_estimates(estimate(found, rows, accelerators), rows)
    _show_machines(machine_estimates(found, rows, commit, file), file, commit)
    if job.caption is not None:
        _show_captions(job.caption)


def _wants_own_price(prices: Mapping[str, float]) -> bool:
    from pipeline.accelerators import HERE, check_accelerator

    return any(check_accelerator(name) == HERE for name in prices)


def _prices(given: Sequence[str]) -> dict[str, float]:
    """Dollars an hour by accelerator, every mistake named at once."""
    from pipeline.accelerators import check_accelerator

    prices, problems = dict[str, float](), list[str]()
    allowed = "allowed: name=dollars per hour, as a100=3.67"
    for text in given:
        name, _, usd = text.partition("=")
        try:
            check_accelerator(name)
        except ValueError as error:
            problems.append(f"--price {text}: {error}; {allowed}")
            continue
        try:
            prices[name] = float(usd)
        except ValueError:
            prices[name] = math.nan
        if not (math.isfinite(prices[name]) and prices[name] >= 0):
            problems.append(f"--price {text}: got {usd!r} for the dollars; {allowed}, at least 0")
    if problems:
        raise BadRequest(*problems)
    return prices


def _show_counted(counted: Measurement) -> None:
    _, height, width = counted.image_shape
    output.print(
        f"counted on the model's networks, without weights: {counted.batch_size} x {height}x{width}",
        soft_wrap=True,
    )
    gib = counted.peak_bytes / 2**30
    least = None if counted.least_bytes is None else counted.least_bytes / 2**30
    table(
        ["an image, all steps", ""],
        [
            ["steps", counted.steps],
            ["network calls (NFE)", counted.nfe],
            ["operations, TFLOP", counted.teraflop],
            ["memory in float32, GiB", gib],
            ["memory in 16 bits, GiB", gib / 2],
            ["one alone with activation checkpointing, float32", least],
            ["one alone with activation checkpointing, 16 bits", least and least / 2],
        ],
    )


def _show_measured(measured: Measurement) -> None:
    output.print(
        f"\nmeasured on this machine ({measured.device}): one step of each kind",
        soft_wrap=True,
    )
    table(
        ["an image, all steps", ""],
        [["seconds", measured.seconds], ["peak memory, GiB", measured.peak_bytes / 2**30]],
    )


def _show_estimates(estimates: Sequence[Estimate], images: int) -> None:
    from pipeline.cost.plan import TYPICAL_SHARE

    if not estimates:
        return
    output.print(f"\n{images} images on one worker; n workers take 1/n of the hours for the same dollars")
    rows = [
        [
            made.accelerator,
            made.dtype,
            _span(made.seconds),
            _span(made.hours),
            _span(made.dollars),
            "measured" if made.measured else "extrapolated",
        ]
        for made in estimates
    ]
    table(["accelerator", "dtype", "s an image", "hours", "dollars", "how"], rows)
    if not all(made.measured for made in estimates):
        output.print(
            f"extrapolated: operations over the accelerator's datasheet rate for matrices of the dtype, "
            f"all of it - {TYPICAL_SHARE:.0%} of it; not a measurement",
            soft_wrap=True,
        )


def _show_machines(estimates: Sequence[MachineEstimate], prices: Prices, commit: int) -> None:
    from pipeline.cost.machines import cheapest

    dtypes = " or, on older GPUs, ".join(sorted({made.dtype for made in estimates}))
    output.print(
        f"\nextrapolated to machine types, in {dtypes}, at prices of {prices.date}, {prices.region}, "
        f"from {prices.source}",
        soft_wrap=True,
    )
    rows = [
        [
            made.machine,
            _span(made.hours),
            _span(made.preemptions),
            _span(made.lost),
            _span(made.dollars) if made.fits else "too small",
        ]
        for made in estimates
    ]
    table(["machine type", "hours", "preemptions", "$ lost", "dollars"], rows)
    output.print(
        f"preemptions: {prices.preemptions_per_hour:g} an hour of each spot machine are assumed; each loses "
        f"half a commit of {commit} images of each actor, and {prices.start_minutes:g} min until a successor "
        "restores",
        soft_wrap=True,
    )
    best = cheapest(estimates)
    found = (
        f"{best.machine}, {_span(best.dollars)} dollars" if best else "none; too small, or never at an end"
    )
    output.print(f"cheapest for this job: {found} (extrapolated)", soft_wrap=True)


def _show_captions(caption: CaptionConfig) -> None:
    stage = (
        f"captions are those of {caption.run}"
        if caption.run
        else f"captions come first: {caption.model} on each {caption.source}, a stage of its own on the same "
        "workers, which is not in these figures"
    )
    output.print(stage, soft_wrap=True)


def _span(figures: tuple[float, float] | None) -> str:
    if figures is None:
        return "no price"
    least, typical = (f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}" for figure in figures)
    return least if least == typical else f"{least} - {typical}"


if __name__ == "__main__":
    run_alone(plan)
