"""What a job costs on each machine type of a price file, on demand and on spot machines that are taken away.

Preemptions. Machines restore for H hours in all. Spot machines are taken at a rate of r an hour, whatever
they do, so that T hours of them see r T preemptions on average. Each loses what its actors had not committed:
half a commit on average, since it finds a commit of c hours at any of its moments alike. And until its
successor restores, s hours are paid for nothing. So

    T = H + r T (c / 2 + s),   which is   T = H / (1 - r (c / 2 + s)).

The actors of one machine lose their half commits side by side, so that the machine's loss is the same for one
or many. With r (c / 2 + s) >= 1 a machine loses as much as it does: the job does not end. Half a commit is
right for commits that are short beside 1 / r, which is also where one wants to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.accelerators import dtype_on
from pipeline.cost.plan import Measurement, extrapolated_seconds
from pipeline.prices import SPOT, Prices

Span = tuple[float, float]  # (least, typical), as in `pipeline.cost.plan`


@dataclass(frozen=True)
class MachineEstimate:
    """A job on one machine type; n machines take 1/n of the hours for as many dollars.

    dtype: that the job takes there. hours: of machines, with those lost. preemptions: expected. lost: what
    they cost, within `dollars`. fits: whether the memory is there that one image needs, with activation
    checkpointing, whose time is not in `hours`. All of it is extrapolated.
    """

    machine: str
    dtype: str
    fits: bool
    hours: Span
    preemptions: Span
    dollars: Span
    lost: Span


def machine_estimates(
    measured: Measurement, images: int, commit: int, prices: Prices
) -> list[MachineEstimate]:
    """Every machine type of the file, on demand and, at its spot price, as spot. commit: images to one."""
    found = []
    for name, machine in prices.machines.items():
        dtype = dtype_on(machine.accelerator, measured.dtype)
        seconds = extrapolated_seconds(measured.teraflop, machine.accelerator, dtype)
        fits = measured.least_on(machine.accelerator) <= machine.memory_gib * 2**30
        for suffix, usd, rate in (
            ("", machine.on_demand, 0.0),
            (SPOT, machine.spot, prices.preemptions_per_hour),
        ):
            if usd is None:
                continue
            useful = [images * second / 3600 / machine.count for second in seconds]
            hours = [
                with_preemptions(hour, commit * second / 3600, rate, prices.start_minutes / 60)
                for hour, second in zip(useful, seconds, strict=True)
            ]
            found.append(
                MachineEstimate(
                    name + suffix,
                    dtype,
                    fits,
                    hours=_span(hours),
                    preemptions=_span([rate * hour for hour in hours]),
                    dollars=_span([usd * hour for hour in hours]),
                    lost=_span([usd * (hour - needed) for hour, needed in zip(hours, useful, strict=True)]),
                )
            )
    return found


def with_preemptions(hours: float, commit_hours: float, rate: float, start_hours: float) -> float:
    """Machine-hours that `hours` of work take, as at the top of this file; infinite where it never ends."""
    share_lost = rate * (commit_hours / 2 + start_hours)
    return hours / (1 - share_lost) if share_lost < 1 else math.inf


def cheapest(estimates: Sequence[MachineEstimate]) -> MachineEstimate | None:
    """The least typical dollars of those that the job fits and ends on; None where there are none."""
    possible = [made for made in estimates if made.fits and math.isfinite(made.dollars[1])]
    return min(possible, key=lambda made: made.dollars[1], default=None)


def _span(figures: Sequence[float]) -> Span:
    least, typical = figures
    return least, typical
