"""Where the shipped model's settings are looked for: ``python -m jobs.benchmark tune``."""

from __future__ import annotations

from typing import Any

from jobs.tables.grid import Part

RHO = (1.0, 3.0, 8.0, 15.0, 45.0)
ADAM_RHO = (0.02, 0.05, 0.15)
EVERY = (1, 2, 3)
LONG_EVERY = (50, 5, 1)  # of a thousand steps
FRESH = (0.0, 0.5, 1.0)
PIXEL_STEPS = (20, 50)
STEPS = (20, 8, 50, 100)  # the first is what the others are compared with
TV_WEIGHT = (0.0005, 0.002, 0.008, 0.03)
LEARNING_RATE = (0.01, 0.03, 0.1, 0.3)
WARM_AT = (0.2, 0.4, 0.6, 0.8)

DYNAMICS: tuple[dict[str, Any], ...] = ({"step_size": 5e-4}, {"tau": 0.0141}, {"iterations": 30})

Point = tuple[str, dict[str, Any]]  # a method and its settings over those of preset tiny
K0: dict[str, Any] = {"prompt_tuning": None}
PAPER = {"preset": "paper"}
PLAIN_MEAN: dict[str, Any] = {"preset": "tiny_psnr", "toward": None}

OF_PIXELS = {method: {"model": "tiny-pixel"} for method in ("dps", "diffpir", "pigdm", "dds")}

GRIDS: dict[str, list[Point]] = {
    "ldps": [("ldps", {"guidance": {"step_size": rho}}) for rho in RHO],
    "ldir": [("ldir", {"guidance": {"step_size": rho}}) for rho in ADAM_RHO],
    "guidance": [("p2l", {**K0, "guidance": None})]
    + [("p2l", {**K0, "guidance": {"step_size": rho}}) for rho in RHO],
    "projection": [
        ("p2l", {**K0, "projection": {"every": every, "weight": weight, "fresh_noise": fresh}})
        for weight in ("discrepancy", 0.1)
        for every in EVERY
        for fresh in FRESH
    ],
    "steps": [("p2l", {**K0, "steps": steps}) for steps in STEPS]
    + [("p2l", {**K0, "guidance": None, "steps": steps}) for steps in STEPS],
    "long": [("p2l", K0)]
    + [
        ("p2l", {**K0, "steps": 1000, "guidance": {"for_steps": 20}, "projection": {"every": every}})
        for every in LONG_EVERY
    ],
    "finish": [
        (name, {**tuning, **finish})
        for name, tuning in (("p2l", K0), ("ldps", {}))
        for finish in ({"finish": None}, {}, {"finish": {"by": "total_variation"}})
    ],
    "tv": [("tv", {})] + [("tv", {"weight": weight}) for weight in TV_WEIGHT],
    "tuning": [("p2l", K0)]
    + [("p2l", {"prompt_tuning": {"iterations": 1, "learning_rate": rate}}) for rate in LEARNING_RATE],
    "tuning-ldps": [("ldps", {})]
    + [("ldps", {"prompt_tuning": {"iterations": 1, "learning_rate": rate}}) for rate in LEARNING_RATE],
    "warm-start": [("p2l", {"preset": "instant", "warm_start": None})]
    + [("p2l", {"preset": "instant", "warm_start": {"at": at}}) for at in WARM_AT],
    "cheaper": [("p2l", {"preset": preset}) for preset in ("balanced", "fast", "instant")],
    "mean": [("p2l", {**tuning, "samples": 8}) for tuning in (K0, {})],
    "mean-warm": [("p2l", PLAIN_MEAN)]
    + [("p2l", {**PLAIN_MEAN, "warm_start": {"at": at}}) for at in WARM_AT],
    "dps": [("dps", {"step_size": size}) for size in (12.0, 1.0, 3.0, 6.0, 25.0)],
    "diffpir": [("diffpir", {"steps": steps}) for steps in PIXEL_STEPS] + [("diffpir", PAPER)],
    "pigdm": [("pigdm", {"steps": steps}) for steps in PIXEL_STEPS],
    "dds": [("dds", {"steps": steps}) for steps in PIXEL_STEPS] + [("dds", PAPER)],
    "treg": [("treg", {})]
    + [("treg", {"guidance_scale": scale}) for scale in (4.0, 7.5)]
    + [("treg", {"data": data}) for data in ({"weight": 0.001}, {"weight": 0.1}, {"every": 2})],
    "resample": [
        ("resample", settings)
        for settings in (
            {},
            {"guidance": {"step_size": 3.0}},
            {"guidance": {"step_size": 8.0}},
            {"every": 1},
            {"spread": 4.0},
            {"pixel": {"iterations": 200}, "latent": {"iterations": 40}},
        )
    ],
    "daps": [("daps", {}), ("daps", {"steps": 20})] + [("daps", {"dynamics": more}) for more in DYNAMICS],
}


def rows(grid: str) -> dict[str, Part]:
    """A row for each point of a grid, compared with the first."""
    names = [f"{method} {settings}" for method, settings in GRIDS[grid]]
    return {
        name: Part(
            {"method": {"name": method, "preset": "tiny", **settings}, **OF_PIXELS.get(method, {})},
            None if name == names[0] else names[0],
        )
        for name, (method, settings) in zip(names, GRIDS[grid], strict=True)
    }
