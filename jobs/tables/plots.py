"""Curves as a picture, by matplotlib: a PNG beside a table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.console import BadRequest
from pipeline.stores import storage

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean and standard deviation (N,)


def curves(
    url: str, title: str, axes: tuple[str, str], x: Sequence[float], series: Mapping[str, Curve]
) -> None:
    """One line a series with its deviation as a band. Raises BadRequest where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise BadRequest("curves need matplotlib: pip install 'p2l[figures]'") from None

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    plot = figure.subplots()
    for name, (mean, deviation) in series.items():
        (drawn,) = plot.plot(x, mean, marker="o", markersize=3, label=name)
        plot.fill_between(
            x, mean - deviation, mean + deviation, color=drawn.get_color(), alpha=0.15, linewidth=0
        )
    plot.set(title=title, xlabel=axes[0], ylabel=axes[1])
    plot.grid(alpha=0.3)
    plot.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    storage.write_bytes(url, png.getvalue())
