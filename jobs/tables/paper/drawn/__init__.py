"""The paper's figures: what happens inside the algorithms, which no output folder holds."""

from collections.abc import Callable

from jobs.tables.paper.drawn.evolution import figure_2
from jobs.tables.paper.drawn.fixed_points import figure_13, figure_14
from jobs.tables.paper.drawn.generation import figure_12
from jobs.tables.paper.world import FFHQ, IMAGENET, World

# Each with the data set that it is about: (world, data set, folder, images) to Markdown.
FIGURES: dict[str, tuple[Callable[[World, str, str, int], str], str]] = {
    "figure-2": (figure_2, FFHQ),
    "figure-12": (figure_12, IMAGENET),
    "figure-13": (figure_13, IMAGENET),
    "figure-14": (figure_14, IMAGENET),
}

__all__ = ["FIGURES"]
