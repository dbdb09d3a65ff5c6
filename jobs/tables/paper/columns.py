"""Columns of the paper's tables: a task on a data set, with the preset that belongs to both."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.tables.grid import Part
from jobs.tables.paper.world import World

SR8, MOTION, GAUSSIAN = "SR x8", "motion blur", "Gaussian blur"
FREE_FORM, RANDOM = "inpainting 10-20 %", "inpainting 80 %"
TASKS = (SR8, MOTION, GAUSSIAN, FREE_FORM)


def tasks_on(world: World, data_sets: Sequence[str], tasks: Sequence[str]) -> dict[str, Part]:
    """A column for each task on each data set that is at hand."""
    operators = {
        SR8: {"name": "super_resolution", "factor": 8},
        MOTION: {"name": "motion_blur", "size": world.motion, "intensity": 0.5},
        GAUSSIAN: {"name": "gaussian_blur", "size": 61, "sigma": 3.0},
        FREE_FORM: {"name": "inpainting", "mask": "free_form", "fraction": "10-20%"},
        RANDOM: {"name": "inpainting", "mask": "random", "fraction": 0.8},
    }
    return {
        f"{data_set}, {task}": Part(
            {
                "input": world.data[data_set],
                "operator": operators[task],
                "method": {"preset": world.presets[data_set]},
            }
        )
        for data_set in data_sets
        if data_set in world.data
        for task in tasks
    }
