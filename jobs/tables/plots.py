"""Curves as a picture, by matplotlib: a PNG beside a table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.console import BadRequest
from pipeline.stores import storage

AROUND = 12.0 * np.array(
    [(0, 1), (0, -1), (-1, 0), (1, 0), (-0.8, 0.8), (0.8, 0.8), (0.8, -0.8), (-0.8, -0.8)]
)
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean and standard deviation (N,)


def curves(
    url: str, title: str, axes: tuple[str, str], x: Sequence[float], series: Mapping[str, Curve]
) -> None:
    """One line a series with its deviation as a band. Raises BadRequest where matplotlib is missing."""
    figure = _figure()
    plot = figure.subplots()
    for name, (mean, deviation) in series.items():
        (drawn,) = plot.plot(x, mean, marker="o", markersize=3, label=name)
        plot.fill_between(
            x, mean - deviation, mean + deviation, color=drawn.get_color(), alpha=0.15, linewidth=0
        )
    plot.set(title=title, xlabel=axes[0], ylabel=axes[1])
    plot.grid(alpha=0.3)
    plot.legend()
    _save(url, figure)


def costs(
    url: str, axes: tuple[str, str], points: Mapping[str, tuple[float, float]], curve: Sequence[str]
) -> None:
    """Named points (cost, quality) by the logarithm of the cost, a curve through some; of no cost, levels.

    Points have numbers, by which a list beside the plot names them.
    """
    figure = _figure(wide=1.5)
    plot, beside = figure.subplots(1, 2, width_ratios=(5, 2))
    beside.axis("off")
    costly = [name for name, (cost, _) in points.items() if cost]
    listed = "\n".join(f"{number}  {name}" for number, name in enumerate(costly, 1))
    beside.text(0, 1, listed, va="top", fontsize=8, linespacing=1.6)
    for name, (cost, quality) in points.items():
        if cost == 0:
            plot.axhline(quality, color="0.5", linestyle="--", linewidth=1)
            plot.annotate(
                name,
                (1, quality),
                (-4, 2),
                ("axes fraction", "data"),
                "offset points",
                ha="right",
                fontsize=7,
            )
            continue
        plot.plot(cost, quality, "o", color="C0" if name in curve else "0.6", markersize=4)
    plot.plot(*zip(*(points[name] for name in curve), strict=True), linewidth=1)
    plot.set(xscale="log", xlabel=axes[0], ylabel=axes[1])
    for ticks in (plot.xaxis.set_major_formatter, plot.xaxis.set_minor_formatter):
        ticks("{x:g}")
    plot.grid(alpha=0.3)
    plot.margins(0.06)
    figure.draw_without_rendering()  # from here on the layout is known
    dots = plot.transData.transform([points[name] for name in costly])
    for number, (name, offset) in enumerate(zip(costly, _apart(dots), strict=True), 1):
        style = {"ha": "center", "va": "center", "fontsize": 8}
        plot.annotate(str(number), points[name], offset, textcoords="offset pixels", **style)
    _save(url, figure)


def _apart(dots: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """For each dot (N, 2) in pixels where its label goes, as far from all dots and labels as it can be."""
    taken, found = list(dots), []
    for dot in dots:
        free = [float(np.linalg.norm(np.stack(taken) - (dot + offset), axis=1).min()) for offset in AROUND]
        found.append(AROUND[int(np.argmax(free))])
        taken.append(dot + found[-1])
    return found


def _figure(wide: float = 1.0) -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise BadRequest("curves need matplotlib: pip install -e '.[figures]' in a clone") from None
    return Figure(figsize=(7.2 * wide, 4.4), layout="constrained")


def _save(url: str, figure: Any) -> None:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    storage.write_bytes(url, png.getvalue())
