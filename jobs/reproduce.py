"""`p2l reproduce`: a table or figure of the paper, each cell an ordinary run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.console import BadRequest, output, readable_errors, run_alone

if TYPE_CHECKING:
    from jobs.tables.paper.world import World

NAMES = ("1", "2", "3", "4", "5", "7", "8", "figure-2", "figure-5", "figure-12", "figure-13", "figure-14")
SHIPPED = 16  # images of each shipped data set
DRAWN = 8  # images of a figure, at most
IN_THE_PAPER = 1000  # images of each data set


@readable_errors()
def reproduce(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=f"One of: {', '.join(NAMES)}.", show_default=False)
    ],
    out: Annotated[
        str, typer.Option(help="Folder of the cells' outputs; what is there is not done again.")
    ] = "reproduced",
    model: Annotated[
        str,
        typer.Option(help="tiny: the shipped models; sd14: Stable Diffusion v1.4; or an id, folder, URL."),
    ] = "tiny",
    pixel_model: Annotated[
        str | None,
        typer.Option(help="The prior in pixels: an id, folder or URL; with another model than tiny."),
    ] = None,
    captioner: Annotated[
        str | None, typer.Option(help="The captioning model of table 1: an id, folder or URL; likewise.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]URL",
            help="Images of NAME: ffhq, imagenet or div2k; with another model than tiny; repeatable.",
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=2, help="The first N of each data set. Default: all, of the shipped 16.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Restorations of each image.")] = 1,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Restore nothing: say what the table takes, for 1000 images by default."),
    ] = False,
) -> None:
    """Make a table or figure of the paper again: its methods and settings, its own values beside ours.

    Each cell of a table is an output folder that `p2l report` and `p2l compare` read; the same command does
    what is missing. OUT holds table-N.md and table-N.csv, or figure-N.md and its pictures.

    Example: p2l reproduce 3 --images 8

    Example: p2l reproduce 2 --model sd14 --plan
    """
    from jobs.tables.paper import world
    from jobs.tables.paper.drawn import FIGURES
    from jobs.tables.paper.tables import TABLES
    from pipeline.stores import storage

    if name not in NAMES:
        raise BadRequest(f"NAME: got {name!r}; allowed: {', '.join(NAMES)}")
    needed = TABLES[name].data_sets if name in TABLES else (FIGURES[name][1],)
    known = world.SD14 if model == "sd14" else model
    if plan:
        if name not in TABLES or model == "tiny":
            raise BadRequest(f"--plan: got {name} with --model {model}; allowed: a table with another model")
        planned = world.stable_diffusion(known, pixel_model, captioner, dict.fromkeys(needed, "planned"))
        output.print(_plan(name, planned, images or IN_THE_PAPER, seeds), soft_wrap=True)
        return
    if model == "tiny":
        options = {"--data": data, "--pixel-model": pixel_model, "--captioner": captioner}
        if given := [option for option, value in options.items() if value]:
            raise BadRequest(f"{given[0]}: got one with --model tiny, which has its own; leave it out")
        where = world.tiny(out, images or SHIPPED)
    else:
        where = world.stable_diffusion(known, pixel_model, captioner, _data(data or [], needed, out, images))
    if name in TABLES:
        text = _table(name, where, out, seeds)
    else:
        draw, data_set = FIGURES[name]
        title = f"Figure {name.removeprefix('figure-')}"
        text = f"# {title}\n\n{draw(where, data_set, out, min(images or DRAWN, DRAWN))}\n"
    storage.write_text(storage.join(out, f"{_stem(name)}.md"), text)
    output.print(text, soft_wrap=True)


def _table(name: str, where: World, out: str, seeds: int) -> str:
    """Computes what is missing of a table's cells; Markdown."""
    from jobs.tables import figures, grid, sheets
    from jobs.tables.paper import beside
    from jobs.tables.paper.tables import TABLES
    from pipeline.stores import storage

    table = TABLES[name].make(where)
    cells = storage.join(out, _stem(name))
    for line in chain(grid.run(table.grid, cells, seeds), grid.score(table.grid, cells, seeds)):
        output.print(line, soft_wrap=True)
    found = figures.read(table.grid, cells, seeds)
    storage.write_text(storage.join(out, f"{_stem(name)}.csv"), beside.csv_text(name, table, found))
    if TABLES[name].drawn:
        storage.write_bytes(storage.join(out, f"{_stem(name)}.png"), sheets.sheet(table.grid, cells))
    return beside.markdown(name, table, found, where, seeds)


def _plan(name: str, where: World, images: int, seeds: int) -> str:
    from jobs.tables.paper.price import priced
    from jobs.tables.paper.tables import TABLES

    return priced(TABLES[name].make(where), images, seeds)


def _stem(name: str) -> str:
    return name if name.startswith("figure") else f"table-{name}"


def _data(given: list[str], needed: Sequence[str], out: str, images: int | None) -> dict[str, str]:
    """The shards of each data set, by the paper's names; of their first images where a number is given."""
    from jobs.shard import shard
    from pipeline.stores import storage

    known = {name.lower(): name for name in needed}
    found = {}
    for one in given:
        name, _, url = one.rpartition("=")
        if not name and len(needed) == 1:
            name = needed[0]
        if name.lower() not in known:
            allowed = ", ".join(f"{name}=URL" for name in known)
            raise BadRequest(f"--data: got {one!r}; allowed for this table: {allowed}")
        found[known[name.lower()]] = url
    if not found:
        raise BadRequest(f"--data: got none; allowed for this table: {', '.join(f'{n}=URL' for n in known)}")
    if images is None:
        return found
    folders = {name: storage.join(out, "data", f"{images} {name}") for name in found}
    for name, url in found.items():
        if not storage.find(folders[name], ".parquet"):
            shard([url], folders[name], first=images)
    return folders


if __name__ == "__main__":
    run_alone(reproduce)
