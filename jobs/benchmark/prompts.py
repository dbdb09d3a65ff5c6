"""Whether a tuned prompt can be used again: ``python -m jobs.benchmark prompts``.

Prompts are tuned with K = 5 on the reported images, and on others for a mean of the domain. Then the reported
images are restored from each image's own prompt, and from the mean, with K = 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from jobs.benchmark.quality import TASKS, shards
from jobs.tables import figures, held_out
from jobs.tables import grid as grids
from jobs.tables.figures import line
from jobs.tables.grid import PROMPTED, Cell, Grid, Part
from p2l_engine.nearest_text import distances
from pipeline.config import read_back
from pipeline.output.folder import MEAN_PROMPT, RUN, OutputFolder
from pipeline.results.tuned_prompts import read_prompts
from pipeline.stores import storage
from pipeline.worker import models
from pipeline.worker.stored_prompts import COLUMN, Embeddings, of_table

TUNED = "K=5"
OTHER_CAPTIONS = 2000  # of drawn scenes, among which the right one is looked for


def run(task: str, images: int, out: str) -> Iterator[str]:
    """Lines on what is computed, then two tables in Markdown: quality, and the right caption's rank."""
    reported = shards(out, held_out.examples(images))
    apart = held_out.examples(images, held_out.TUNED_ON)
    others = _grid(task, shards(f"{out}/others", apart), {TUNED: _p2l(5)})
    yield from grids.run(others, storage.join(out, "others"), seeds=1)
    folder = Cell(TUNED, task, 0).folder(storage.join(out, "others"))
    read_prompts(folder, [], words=False, images=0)
    own, mean = Cell(TUNED, task, 0).folder(out), storage.join(folder, MEAN_PROMPT)
    rows = {
        "K=0": _p2l(0),
        "K=1": _p2l(1, "K=0"),
        TUNED: _p2l(5, "K=0"),
        "K=0, right caption": Part({**_p2l(0).settings, **PROMPTED}, "K=0"),
        "K=0 from its own tuned prompt": _p2l(0, TUNED, own),
        "K=1 from its own tuned prompt": _p2l(1, TUNED, own),
        "K=0 from the mean of others": _p2l(0, TUNED, mean),
        "K=1 from the mean of others": _p2l(1, TUNED, mean),
    }
    table = _grid(task, reported, rows)
    for names in (("K=0", "K=1", TUNED, "K=0, right caption"), tuple(rows)):  # the tuned one comes first
        some = Grid({name: rows[name] for name in names}, table.columns, table.settings)
        yield from grids.run(some, out, seeds=1)
    yield ""
    yield figures.every_figure(table, figures.read(table, out, seeds=1))
    yield ""
    yield from _ranks(OutputFolder(own), held_out.examples(images))


def _p2l(iterations: int, against: str | None = None, start: str | None = None) -> Part:
    tuning = {"iterations": iterations} if iterations else None
    method = {"method": {"name": "p2l", "preset": "tiny", "prompt_tuning": tuning}}
    return Part(method if start is None else {**method, "prompt_embeddings": start}, against)


def _grid(task: str, images: str, rows: dict[str, Part]) -> Grid:
    settings: dict[str, Any] = {"input": images, "model": "tiny", "size": 64, "keep": [COLUMN]}
    return Grid(rows, {task: Part({"operator": TASKS[task]})}, settings)


def _ranks(run: OutputFolder, images: list[held_out.Example]) -> Iterator[str]:
    """Which place the right caption has among many by its distance, before and after tuning."""
    candidates = [*images, *held_out.scenes(OTHER_CAPTIONS)]
    captions = list(dict.fromkeys(caption for _, _, caption in candidates))
    right = {key: captions.index(caption) for key, _, caption in images}
    tuned: dict[str, Embeddings] = {}
    for shard in run.restored():
        tuned |= of_table(run.read(run.restored_file(shard), ("key", COLUMN)))
    model = models.load_latent(read_back(run.json(RUN)["config"]).model)
    before = distances(model, model.embed_prompts([""]), captions)[0]
    C = torch.stack([torch.from_numpy(tuned[key]) for key in right])
    after = distances(model, C, captions)
    yield line(["", "median rank of the right caption", "nearest in", "distance to it"])
    yield line(["---"] * 4)
    for name, found in (("before", before.expand(len(right), -1)), ("after", after)):
        places = torch.tensor(list(right.values()))[:, None]
        mine = found.gather(1, places)
        rank = (found < mine).sum(dim=1) + 1
        shown = [f"{rank.double().median():g} of {len(captions)}", f"{int((rank == 1).sum())} of {len(rank)}"]
        yield line([name, *shown, f"{float(mine.mean()):.3f}"])
