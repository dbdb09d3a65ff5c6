"""`p2l plan`: what a job will cost, before it is spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import configs
from jobs.console import BadRequest, output, readable_errors, run_alone, table, warn
from jobs.restore import CONFIG_HELP, SET_HELP

if TYPE_CHECKING:
    from pipeline.machines import MachineEstimate
    from pipeline.plan import Estimate, Measurement
    from pipeline.prices import Prices

PRICE_HELP = "An accelerator's price, as a100=3.67 or a100-spot=1.29; repeatable. This machine is `here`."
PRICES_HELP = "Price file of machine types, spot and on demand, to use instead of the shipped one."


@readable_errors()
def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, show_default=False)],
    price: Annotated[list[str] | None, typer.Option(metavar="NAME=USD_PER_HOUR", help=PRICE_HELP)] = None,
    prices: Annotated[str | None, typer.Option(metavar="FILE", help=PRICES_HELP)] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images to plan for; by default the rows of the job's input.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help=SET_HELP)] = None,
) -> None:
    """Measure a step of the configured model here, and say hours, memory, network calls and dollars.

    Figures for other accelerators are extrapolated from counted operations and datasheet rates, and say so;
    so are those for the machine types of the price file, the cheapest of which is named.

    Example: p2l plan sr8 --images 10000 --price a100=3.67 --price a100-spot=1.29
    """
    from pipeline.cluster import commit_every
    from pipeline.config import load_config
    from pipeline.feasible import warnings
    from pipeline.machines import machine_estimates
    from pipeline.plan import count_images, estimate, measure
    from pipeline.prices import load_prices
    from pipeline.storage_options import configure

    job = load_config(configs.locate(config), settings or ())
    configure(job.storage)
    warn(*warnings(job))
    accelerators = _prices(price or ())
    try:
        file = load_prices(prices)
    except ValueError as error:
        raise BadRequest(*str(error).splitlines()) from error
    count = count_images(job) if images is None else images
    try:
        measured = measure(job)
    except ValueError as error:  # of the model's name, or the operator on this size
        raise BadRequest(str(error)) from error
    commit = commit_every(job, "cuda")
    _show_measured(measured)
    _show_estimates(estimate(measured, count, accelerators), count)
    _show_machines(machine_estimates(measured, count, commit, file), file, commit)


def _prices(given: Sequence[str]) -> dict[str, float]:
    """Dollars an hour by accelerator, every mistake named at once."""
    from pipeline.accelerators import check_accelerator

    prices, problems = {}, []
    for text in given:
        name, _, usd = text.partition("=")
        try:
            check_accelerator(name)
            prices[name] = float(usd)
        except ValueError as error:
            problems.append(f"--price {text}: {error}; allowed: name=dollars per hour, as a100=3.67")
    if problems:
        raise BadRequest(*problems)
    return prices


def _show_measured(measured: Measurement) -> None:
    _, height, width = measured.image_shape
    output.print(
        f"measured on this machine ({measured.device}): one step with and one without projection, "
        f"{measured.batch_size} x {height}x{width}",
        soft_wrap=True,
    )
    table(
        ["an image, all steps", ""],
        [
            ["steps", measured.steps],
            ["network calls (NFE)", measured.nfe],
            ["operations, TFLOP", measured.teraflop],
            ["seconds", measured.seconds],
            ["peak memory, GiB", measured.peak_bytes / 2**30],
        ],
    )


def _show_estimates(estimates: Sequence[Estimate], images: int) -> None:
    from pipeline.plan import TYPICAL_SHARE

    output.print(f"\n{images} images on one worker; n workers take 1/n of the hours for the same dollars")
    rows = [
        [
            made.accelerator,
            _span(made.seconds),
            _span(made.hours),
            _span(made.dollars),
            "measured" if made.measured else "extrapolated",
        ]
        for made in estimates
    ]
    table(["accelerator", "s an image", "hours", "dollars", "how"], rows)
    if not all(made.measured for made in estimates):
        output.print(
            f"extrapolated: operations over the accelerator's datasheet rate for 16-bit matrices, "
            f"all of it - {TYPICAL_SHARE:.0%} of it; not a measurement",
            soft_wrap=True,
        )


def _show_machines(estimates: Sequence[MachineEstimate], prices: Prices, commit: int) -> None:
    from pipeline.machines import cheapest

    output.print(
        f"\nextrapolated to machine types, at prices of {prices.date}, {prices.region}, from {prices.source}",
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
    table(["machine type", "hours", "preemptions", "$ lost to them", "dollars"], rows)
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


def _span(figures: tuple[float, float] | None) -> str:
    if figures is None:
        return "no price"
    least, typical = (f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}" for figure in figures)
    return least if least == typical else f"{least} - {typical}"


if __name__ == "__main__":
    run_alone(plan)
