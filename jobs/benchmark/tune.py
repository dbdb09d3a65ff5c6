"""Where the shipped model's settings are looked for: ``python -m jobs.benchmark tune``."""

from __future__ import annotations

from typing import Any

from jobs.tables.grid import Part

RHO = (0.5, 1.0, 2.0, 4.0)
ADAM_RHO = (0.02, 0.05, 0.1, 0.2, 0.4)
LAMBDA = (0.1, 1.0)
GAMMA = (2, 4)
TV_WEIGHT = (0.0005, 0.002, 0.008, 0.03)
LEARNING_RATE = (0.01, 0.03, 0.1)

Point = tuple[str, dict[str, Any]]  # a method and its settings over those of preset tiny

GRIDS: dict[str, list[Point]] = {
    "ldps": [("ldps", {"guidance": {"step_size": rho}}) for rho in RHO],
    "ldir": [("ldir", {"guidance": {"step_size": rho}}) for rho in ADAM_RHO],
    "p2l": [
        (
            "p2l",
            {
                "prompt_tuning": None,
                "projection": {"every": every, "weight": weight},
                "guidance": {"rule": "gd", "step_size": rho},
            },
        )
        for rho in RHO[:3]
        for weight in LAMBDA
        for every in GAMMA
    ],
    "tv": [("tv", {})] + [("tv", {"weight": weight}) for weight in TV_WEIGHT],
    "tuning": [("p2l", {"prompt_tuning": None})]
    + [("p2l", {"prompt_tuning": {"iterations": 1, "learning_rate": rate}}) for rate in LEARNING_RATE],
    "tuning-ldps": [("ldps", {})]
    + [("ldps", {"prompt_tuning": {"iterations": 1, "learning_rate": rate}}) for rate in LEARNING_RATE],
}


def rows(grid: str) -> dict[str, Part]:
    """A row for each point of a grid, compared with the first."""
    names = [f"{method} {settings}" for method, settings in GRIDS[grid]]
    return {
        name: Part(
            {"method": {"name": method, "preset": "tiny", **settings}}, None if name == names[0] else names[0]
        )
        for name, (method, settings) in zip(names, GRIDS[grid], strict=True)
    }
