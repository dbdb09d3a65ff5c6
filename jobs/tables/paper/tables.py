"""Tables 1, 2, 3, 4, 5, 7 and 8 as grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobs.tables.grid import Grid, Part, Settings, merged
from jobs.tables.paper.columns import RANDOM, SR8, TASKS, tasks_on
from jobs.tables.paper.world import DIV2K, FFHQ, IMAGENET, World
from p2l_engine import methods, operators

PROMPTS = (
    "A high quality photo",
    "A high quality photo of a cat",
    "A high quality photo of a dog",
    "A high quality photo of a face",
)
NOISE_LEVELS = (0.01, 0.03, 0.1)  # of Table 4, whose own are not said
LEARNING_RATES = {"a tenth of the rate": 0.1, "": 1.0, "ten times the rate": 10.0}  # Table 7, of the preset's
BEST_WITHOUT = "total variation"  # a network: what a user picks first, and what first rows are compared with
PLAIN = {"bicubic": Part({"method": {"name": "bicubic"}}), BEST_WITHOUT: Part({"method": {"name": "tv"}})}


@dataclass(frozen=True)
class PaperTable:
    """grid: as computed. left_out: rows and columns of the paper that are not, each with the reason."""

    title: str
    grid: Grid
    left_out: tuple[str, ...] = ()


def table_1(world: World) -> PaperTable:
    """LDPS with prompts of several kinds, and with its prompt optimized."""
    ldps = {"method": {"name": "ldps"}}
    rows = {"no prompt": Part(ldps)}
    rows |= {prompt: Part({**ldps, "prompt": prompt}, "no prompt") for prompt in PROMPTS}
    columns = tasks_on(world, (FFHQ, IMAGENET), (SR8, RANDOM))
    tuned = {name: _optimized(world, name, column) for name, column in columns.items()}
    rows["prompt optimization"] = Part(ldps, "no prompt", tuned)
    rows |= {f"captions of {of}": Part({**ldps, **s}, "no prompt") for of, s in world.captions.items()}
    if world.optimized is None and "y" in world.captions:
        from_captions = Part({**ldps, **world.captions["y"]}, "captions of y", tuned)
        rows["prompt optimization from captions of y"] = from_captions
    lacking = [f"captions of {of}: no captioning model is given" for of in "xy" if of not in world.captions]
    if world.optimized and "y" not in world.captions:
        lacking.append("prompt optimization from captions of y, as in the paper for SR x8: from a fixed text")
    return _table("Table 1: LDPS with several prompts", world, rows | PLAIN, columns, *lacking)


def table_2(world: World) -> PaperTable:
    """All methods on ImageNet."""
    return _methods_on(world, IMAGENET, "Table 2: methods on ImageNet")


def table_8(world: World) -> PaperTable:
    """All methods on FFHQ."""
    return _methods_on(world, FFHQ, "Table 8: methods on FFHQ")


def table_3(world: World) -> PaperTable:
    """The parts of P2L taken out one by one, with the same guidance."""
    without, proximal = {"projection": None}, {"projection": {"onto": "none"}}
    rows = {
        "none": _p2l(None, **without, prompt_tuning=None),
        "prompt tuning": _p2l("none", **without),
        "projection without proximal step": _p2l("none", **proximal, prompt_tuning=None),
        "projection": _p2l("none", prompt_tuning=None),
        "projection and prompt tuning": _p2l("none"),
    }
    columns = tasks_on(world, (FFHQ, IMAGENET), (SR8, RANDOM))
    return _table("Table 3: the parts of P2L", world, rows | PLAIN, columns)


def table_4(world: World) -> PaperTable:
    """The choice of Gamma, at several levels of noise."""
    rows = {"proximal": _p2l(None), "gluing": _p2l("proximal", projection={"onto": "gluing"})}
    columns = {
        f"{name}, sigma {sigma:g}": replace(part, settings={**part.settings, "noise": sigma})
        for name, part in tasks_on(world, (FFHQ,), (SR8,)).items()
        for sigma in NOISE_LEVELS
    }
    return _table("Table 4: the choice of Gamma", world, rows | PLAIN, columns)


def table_5(world: World) -> PaperTable:
    """Seconds an image."""
    rows = {f"P2L, K={k}": _p2l(None, prompt_tuning={"iterations": k} if k else None) for k in (5, 3, 1, 0)}
    names = ("LDPS", "GML-DPS", "PSLD", "LDIR", "DDS", "DPS", "DiffPIR", "PiGDM")
    of_all = _methods(world)
    rows |= {name: replace(of_all[name], against="P2L, K=3") for name in names}
    columns = tasks_on(world, (IMAGENET,), (SR8,))
    return _table("Table 5: compute time", world, rows | PLAIN, columns)


def table_7(world: World) -> PaperTable:
    """Learning rate and iterations of prompt tuning."""
    columns = tasks_on(world, (FFHQ,), (SR8,))
    rows = {"no tuning": Part({"method": {"name": "ldps"}})}
    for iterations in (1, 3, 5):
        for title, factor in LEARNING_RATES.items():
            tuned = {
                name: {
                    "method": {
                        "prompt_tuning": {
                            "iterations": iterations,
                            "learning_rate": factor * _tuning(column)["learning_rate"],
                        }
                    }
                }
                for name, column in columns.items()
            }
            name = f"K={iterations}" + (f", {title}" if title else "")
            rows[name] = Part({"method": {"name": "ldps"}}, "no tuning", tuned)
    return _table("Table 7: prompt tuning's settings", world, rows | PLAIN, columns)


def figure_5(world: World) -> PaperTable:
    """Figures 5 and 7: images of 1.5 and 2 times the size that the model was trained at."""
    uniform, gaussian = ({"patches": {"weights": weights}} for weights in ("uniform", "gaussian"))
    plain, projected = {"prompt_tuning": None, "projection": None}, {"prompt_tuning": None}
    rows = {
        "vanilla": _p2l(None, **plain),
        "uniform patches": _p2l("vanilla", **plain, **uniform),
        "Gaussian patches": _p2l("vanilla", **plain, **gaussian),
        "projection": _p2l("vanilla", **projected),
        "uniform patches + projection": _p2l("uniform patches", **projected, **uniform),
        "Gaussian patches + projection": _p2l("Gaussian patches", **projected, **gaussian),
    }
    columns = {}
    for side in (round(times * world.side) for times in (1.5, 2)):
        for name, part in tasks_on(world, (DIV2K,), (SR8,)).items():
            columns[f"{name}, {side} pixels"] = replace(part, settings={**part.settings, "size": side})
    return _table("Figures 5 and 7: large images", world, rows | PLAIN, columns)


@dataclass(frozen=True)
class Definition:
    """A table of the paper, about its `data_sets`, `images` of each. drawn: whether images are shown."""

    table: Callable[[World], PaperTable]
    data_sets: tuple[str, ...]
    images: int = 1000
    drawn: bool = False

    def make(self, world: World) -> PaperTable:
        """The table, which says what data sets there are no shards of."""
        table = self.table(world)
        lacking = [f"{name}: no shards of it are given" for name in self.data_sets if name not in world.data]
        return replace(table, left_out=(*table.left_out, *lacking))


TABLES = {
    "1": Definition(table_1, (FFHQ, IMAGENET), images=256),
    "2": Definition(table_2, (IMAGENET,)),
    "3": Definition(table_3, (FFHQ, IMAGENET)),
    "4": Definition(table_4, (FFHQ,)),
    "5": Definition(table_5, (IMAGENET,)),
    "7": Definition(table_7, (FFHQ,), images=256),
    "8": Definition(table_8, (FFHQ,)),
    "figure-5": Definition(figure_5, (DIV2K,), images=100, drawn=True),
}


def _methods_on(world: World, data_set: str, title: str) -> PaperTable:
    columns = tasks_on(world, (data_set,), TASKS)
    rows, lacking = _methods(world) | PLAIN, []
    if world.without_tower:
        del rows["TReg"]
        lacking.append(f"TReg: {world.without_tower}")
    elif data_set in world.texts:
        text = {name: {"prompt": world.texts[data_set]} for name in columns}
        rows["TReg"] = replace(rows["TReg"], by_column=text)
    else:
        lacking.append("TReg's target text: no method is told what an image shows")
    return _table(title, world, rows, columns, *lacking)


def _methods(world: World) -> dict[str, Part]:
    """P2L and what the paper compares with it."""
    in_pixels = merged({"method": {"preset": world.pixel_preset}}, world.pixel or {})
    latent = {"LDPS": "ldps", "GML-DPS": "gml_dps", "PSLD": "psld", "LDIR": "ldir", "TReg": "treg"}
    pixel = {"DDS": "dds", "DPS": "dps", "DiffPIR": "diffpir", "PiGDM": "pigdm"}
    rows = {"P2L": _p2l(None)}
    rows |= {title: Part({"method": {"name": name}}, "P2L") for title, name in latent.items()}
    return rows | {
        title: Part(merged({"method": {"name": name}}, in_pixels), "P2L") for title, name in pixel.items()
    }


def _p2l(against: str | None, **settings: Any) -> Part:
    return Part({"method": {"name": "p2l", **settings}}, against)


def _optimized(world: World, name: str, column: Part) -> Settings:
    """Of prompt optimization in a column of Table 1; for SR x8 from captions of y where there are some."""
    if world.optimized is None:
        return {"method": {"prompt_tuning": _tuning(column)}}
    data_set, task = name.split(", ", 1)
    start = world.optimized[data_set]
    if task != SR8 or "y" not in world.captions:
        return start
    return {"method": start["method"], **world.captions["y"]}


def _tuning(column: Part) -> dict[str, Any]:
    """The prompt tuning of P2L in a column's preset."""
    operator = operators.from_block(column.settings["operator"]).column
    solver = methods.build("p2l", column.settings["method"]["preset"], operator)
    found: dict[str, Any] = solver.model_dump()["prompt_tuning"]
    return found


def _table(
    title: str, world: World, rows: Mapping[str, Part], columns: Mapping[str, Part], *left_out: str
) -> PaperTable:
    reasons = [*left_out]
    without = [name for name, row in rows.items() if world.pixel is None and _in_pixels(row)]
    if without:
        reasons.append(f"{', '.join(without)}: no model in pixels is given")
    kept = {
        name: row if row.against or name == BEST_WITHOUT else replace(row, against=BEST_WITHOUT)
        for name, row in rows.items()
        if name not in without
    }
    return PaperTable(title, Grid(kept, columns, world.settings), tuple(reasons))


def _in_pixels(row: Part) -> bool:
    return methods.SOLVERS[row.settings["method"]["name"]].prior == "pixel"
