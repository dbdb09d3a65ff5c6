"""Quality against cost: P2L, the ways in which it is made cheaper, and what needs no network.

Every way is a row that is compared with P2L as the preset has it; all tasks together are one figure,
paired by image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from jobs.tables import counted, plots
from jobs.tables.figures import line
from jobs.tables.grid import Cell, Grid, Part
from p2l_engine import methods, operators
from p2l_engine.priors.architecture import read_architecture
from p2l_engine.priors.load import Model, without_weights
from pipeline.results.compare import PairedMean, paired_runs

COUNTED = ("CompVis/stable-diffusion-v1-4", 512)  # whose cost the table has: a model and a side in pixels
FIRST = "P2L, K=1"  # what all others are compared with
LONG = "P2L, K=3, 1000 steps"  # which is done only where it is asked for
PERCEPTUAL = "perceptual_efficientnet"


def _way(name: str = "p2l", **settings: Any) -> Part:
    return Part({"method": {"name": name, "preset": "tiny", **settings}}, FIRST)


def _distilled(**settings: Any) -> Part:
    """LATINO by the shipped model with its adapter, at the timesteps of its training."""
    return Part(
        {"model": {"id": "tiny", "lora": "tiny"}, **_way("latino", grid=25, **settings).settings}, FIRST
    )


PRESETS = ("fast", "balanced", "instant")
Block = dict[str, Any]
IN_Z0: Block = {"guidance": {"variable": "z_0"}}
EARLY: Block = {"prompt_tuning": {"between": [0.5, 1.0]}}
BY_NETWORK: Block = {"prompt_tuning": {"through": "network"}}
SKETCHED: Block = {"small_decoder": "auto"}
NO_TUNING: Block = {"prompt_tuning": None}
ALONE: Block = {"guidance": None, **NO_TUNING}
PROMPT: Block = {"prompt_tuning": {"iterations": 1, "learning_rate": 0.05}}

WAYS: dict[str, Part] = {
    "bicubic": _way("bicubic"),
    "total variation": _way("tv"),
    FIRST: Part({"method": {"name": "p2l", "preset": "tiny"}}),
    "P2L, K=3": _way(prompt_tuning={"iterations": 3}),
    LONG: _way(  # as many projections as in the preset's 20 steps: `tune long`
        steps=1000, guidance={"for_steps": 20}, projection={"every": 50}, prompt_tuning={"iterations": 3}
    ),
    "P2L, K=0": _way(**NO_TUNING),
    "K=0, half the steps": _way(steps=10, guidance={"for_steps": 20}, **NO_TUNING),
    "K=0, gradient in z_0": _way(**IN_Z0, **NO_TUNING),
    "K=0, projection alone": _way(**ALONE),
    "K=0, projection alone, 8 steps": _way(steps=8, **ALONE),
    "K=0, small decoder, 6 steps": _way(steps=6, **SKETCHED, **NO_TUNING),
    "K=1, first half of the steps": _way(**EARLY),
    "K=1, through the network alone": _way(**BY_NETWORK),
    "K=1, through the network alone, gradient in z_0": _way(**IN_Z0, **BY_NETWORK),
    "K=0, small decoder": _way(**SKETCHED, **NO_TUNING),
    "K=1, small decoder": _way(**SKETCHED),
    **{f"preset {name}": Part({"method": {"name": "p2l", "preset": name}}, FIRST) for name in PRESETS},
    "LATINO": _way("latino"),
    "LATINO, P2L's prompt": _way("latino", **PROMPT),
    "LATINO, distilled": _distilled(),
    "LATINO, distilled, P2L's prompt": _distilled(**PROMPT),
    "LATINO-PRO": _way("latino_pro"),
}


def tuned_slowly(tasks: Mapping[str, Block]) -> dict[str, Block]:
    """What `LONG` has by column: each of its steps tunes a 50th as far as one of the preset's 20.

    tasks: the `operator:` block of each column.
    """
    found = {}
    for name, block in tasks.items():
        solver = methods.build("p2l", "tiny", operators.from_block(block).column)
        rate = solver.model_dump()["prompt_tuning"]["learning_rate"] * 20 / 1000
        found[name] = {"method": {"prompt_tuning": {"learning_rate": rate}}}
    return found


@dataclass(frozen=True)
class Point:
    """teraflop: an image of COUNTED; 0 without a network. gains: over the row that it is compared with."""

    name: str
    teraflop: float
    means: Mapping[str, float]
    gains: Mapping[str, PairedMean]


def points(grid: Grid, out: str, seeds: int) -> list[Point]:
    """One of each finished row, the cheapest first."""
    found, prior = [], without_weights(read_architecture(COUNTED[0]))
    for name, row in grid.rows.items():
        others = _folders(grid, row.against or name, out, seeds)
        paired = paired_runs(others, _folders(grid, name, out, seeds))
        means = {metric: of.mean for metric, of in paired.items()}
        found.append(Point(name, teraflop(grid, name, prior), means, paired if row.against else {}))
    return sorted(found, key=lambda point: point.teraflop)


def _folders(grid: Grid, row: str, out: str, seeds: int) -> list[str]:
    return [Cell(row, column, seed).folder(out) for column in grid.columns for seed in range(seeds)]


def teraflop(grid: Grid, row: str, prior: Model, side: int = COUNTED[1]) -> float:
    """An image of so many pixels a side by a row's method with another prior, the mean over the tasks."""
    solvers = [grid.job(Cell(row, column, 0), "counted").method for column in grid.columns]
    return fmean(counted.teraflop(prior, solver, (side, side)) for solver in solvers)


def frontier(found: Sequence[Point], metric: str = "psnr") -> list[str]:
    """The names of those than which none is cheaper, or as cheap, and better."""
    best, names = float("-inf"), []
    for point in found:
        if point.means[metric] > best:
            best = point.means[metric]
            names.append(point.name)
    return names


def table(found: Sequence[Point]) -> str:
    """Markdown: a line a way, the cheapest first, with its paired gains; bold on the curve of the best."""
    best = frontier(found)
    heading = ["way", "TFLOP at 512", "PSNR, dB", "gain", "SSIM", "gain", "perceptual", "gain", "residual"]
    lines = [line(heading), line(["---", *["---:"] * (len(heading) - 1)])]
    for point in found:
        shown = [f"**{point.name}**" if point.name in best else point.name, f"{point.teraflop:.3g}"]
        for metric, digits in (("psnr", 2), ("ssim", 3), (PERCEPTUAL, 3)):
            mean, gain = point.means.get(metric), point.gains.get(metric)
            shown.append("" if mean is None else f"{mean:.{digits}f}")
            shown.append(
                ""
                if gain is None or gain.standard_error is None
                else f"{gain.difference:+.{digits}f} ± {gain.standard_error:.{digits}f}"
            )
        lines.append(line([*shown, f"{point.means['residual']:.3g}"]))
    return "\n".join(lines)


def draw(url: str, found: Sequence[Point]) -> None:
    """PSNR against TFLOP as a PNG; what needs no network are levels. Raises BadRequest without matplotlib."""
    best = frontier(found)
    plots.costs(
        url,
        ("TFLOP an image with Stable Diffusion v1.4 at 512", "PSNR, dB"),
        {point.name: (point.teraflop, point.means["psnr"]) for point in found},
        [point.name for point in found if point.name in best and point.teraflop],
    )
