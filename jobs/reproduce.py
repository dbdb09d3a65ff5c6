"""`p2l reproduce`: a table or figure of the paper, each cell an ordinary run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.console import BadRequest, Exit, output, readable_errors, run_alone

if TYPE_CHECKING:
    from jobs.tables.paper.world import World

NAMES = ("1", "2", "3", "4", "5", "7", "8", "figure-2", "figure-5", "figure-12", "figure-13", "figure-14")
SHIPPED = 16  # images of each shipped data set
DRAWN = 8  # images of a figure, at most


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
    class_label: Annotated[
        int | None, typer.Option(min=0, help="From 0, of all images; where the prior in pixels asks for one.")
    ] = None,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="The captioning model of table 1: an id, folder or URL. Default with tiny: shipped."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]URL",
            help="Images of NAME: ffhq, imagenet or div2k; with another model than tiny; repeatable.",
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="The first N of each data set. Default: all, of the shipped 16; of figures but 5 at most 8.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Restorations of each image.")] = 1,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Restore nothing: say what the table takes, of all its images."),
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
    if class_label is not None and pixel_model is None:
        raise BadRequest(f"--class-label: got {class_label} without --pixel-model, which it belongs to")
    if captioner is not None and name != "1":
        raise BadRequest(f"--captioner: got one with {name}; allowed: with 1, the table that has captions")
    if seeds > 1 and name not in TABLES:
        raise BadRequest(f"--seeds: got {seeds} with {name}; allowed: with {', '.join(TABLES)}")
    if name not in TABLES and (images or DRAWN) > DRAWN:
        raise BadRequest(f"--images: got {images} with {name}; allowed: up to {DRAWN}, which it is drawn of")
    pixel = world.pixel_prior(pixel_model, class_label)
    if plan:
        if name not in TABLES or model == "tiny":
            raise BadRequest(f"--plan: got {name} with --model {model}; allowed: a table with another model")
        if data:
            raise BadRequest("--data: got one with --plan, which needs none; leave it out")
        planned = _with_model(known, pixel, captioner, dict.fromkeys(needed, "planned"))
        output.print(_plan(name, planned, images or TABLES[name].images, seeds), soft_wrap=True)
        return
    if model == "tiny":
        options = {"--data": data, "--pixel-model": pixel_model}
        if given := [option for option, value in options.items() if value]:
            raise BadRequest(f"{given[0]}: got one with --model tiny, which has its own; leave it out")
        images = images or SHIPPED
        where = world.tiny(out, images, captioner)
    else:
        where = _with_model(known, pixel, captioner, _data(data or [], needed, out, images))
    if name in TABLES:
        text = _table(name, where, out, images, seeds)
    else:
        draw, data_set = FIGURES[name]
        title = f"Figure {name.removeprefix('figure-')}"
        text = f"# {title}\n\n{draw(where, data_set, out, min(images or DRAWN, DRAWN))}\n"
    storage.write_text(storage.join(out, f"{_stem(name)}.md"), text)
    output.print(text, soft_wrap=True)


def _with_model(
    model: str, pixel: Mapping[str, Any] | None, captioner: str | None, data: Mapping[str, str]
) -> World:
    from jobs.tables.paper import world

    try:
        return world.stable_diffusion(model, pixel, captioner, data)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _table(name: str, where: World, out: str, images: int | None, seeds: int) -> str:
    """Computes what is missing of a table's cells of so many images; Markdown."""
    from jobs.tables import figures, grid, sheets
    from jobs.tables.paper import beside
    from jobs.tables.paper.tables import TABLES
    from pipeline.stores import storage

    table = TABLES[name].make(where)
    cells = storage.join(out, _stem(name), f"{images or 'all'} images")
    for line in chain(grid.run(table.grid, cells, seeds), grid.score(table.grid, cells, seeds)):
        output.print(line, soft_wrap=True)
    found = figures.read(table.grid, cells, seeds)
    storage.write_text(storage.join(out, f"{_stem(name)}.csv"), beside.csv_text(name, found))
    text = beside.markdown(name, table, found, where, seeds)
    if TABLES[name].drawn and (picture := sheets.sheet(table.grid, cells)):
        storage.write_bytes(storage.join(out, f"{_stem(name)}.png"), picture)
        rows = ", ".join(table.grid.rows)
        text += f"\n{_stem(name)}.png: a line a column of the table; from left to right original, {rows}.\n"
    return text


def _plan(name: str, where: World, images: int, seeds: int) -> str:
    from jobs.tables.paper.price import priced
    from jobs.tables.paper.tables import TABLES

    return priced(TABLES[name].make(where), images, seeds)


def _stem(name: str) -> str:
    return name if name.startswith("figure") else f"table-{name}"


def _data(given: list[str], needed: Sequence[str], out: str, images: int | None) -> dict[str, str]:
    """The shards of each data set, by the paper's names; of their first images where a number is given."""
    from jobs.shard import shard
    from jobs.tables.paper import world
    from pipeline.stores import storage

    of_paper = [data_set.lower() for data_set in (world.FFHQ, world.IMAGENET, world.DIV2K)]
    known = {name.lower(): name for name in needed}
    found = {}
    for one in given:
        name, _, url = one.partition("=")
        if name.lower() not in of_paper and len(needed) == 1:  # an equals sign can be the URL's own
            name, url = needed[0], one
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
            try:  # one shard, which is there whole or not at all
                shard([url], folders[name], rows=images, first=images)
            except typer.Exit as end:
                if end.exit_code != Exit.ROWS_FAILED:  # images that cannot be read, which it has named
                    raise
    return folders


if __name__ == "__main__":
    run_alone(reproduce)
