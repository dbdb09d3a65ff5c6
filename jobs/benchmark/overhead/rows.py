"""What a row costs where its restoration costs nothing: CPU time of each thing that an actor does with it."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.tables import held_out
from p2l_engine import metrics, restore
from pipeline.config import JobConfig, load_config
from pipeline.input import sources
from pipeline.output import commits
from pipeline.output.folder import OutputFolder
from pipeline.pictures.images import encode_png
from pipeline.run import pool
from pipeline.worker.measure import measurements, prepare
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer


def run(count: int, side: int) -> str:
    """A table in Markdown: CPU milliseconds a row, of `count` photographs (side, side), on one thread."""
    with tempfile.TemporaryDirectory(prefix="p2l-rows-") as folder:
        known = held_out.photographs(min(count, 64), side=side)
        rows = [(str(row), *known[row % len(known)][1:]) for row in range(count)]
        held_out.write(f"{folder}/in/a.parquet", rows)
        job = {
            "input": f"{folder}/in",
            "output": f"{folder}/out",
            "size": side,
            "operator": {"name": "super_resolution", "factor": 4},
            "method": "adjoint",
        }
        took = _measured(load_config(job), count)
    lines = [f"| {what} | {1000 * seconds / count:.2f} |" for what, seconds in took.items()]
    return "\n".join([f"| {count} rows of {side}x{side} | CPU ms a row |", "|---|---:|", *lines])


def _measured(config: JobConfig, count: int) -> dict[str, float]:
    """CPU seconds by part, each done for a whole micro-batch before the next; and all by the actor's code."""
    took: dict[str, float] = defaultdict(float)

    @contextmanager
    def clock(what: str) -> Iterator[None]:
        start = time.process_time()
        yield
        took[what] += time.process_time() - start

    (shard,) = sources.list_shards(config.input)
    batch = pool.batch_size(config, "cpu")
    restorer = Restorer(config, ActorOptions("cpu", batch, 1))
    with clock("read"):
        given = list(sources.rows(shard, [True] * count))
    for first in range(0, count, batch):
        with clock("decode, fit"):
            images = [prepare(row, config) for row in given[first : first + batch]]
        with clock("measure"):
            A, y = measurements(images, config)
        with clock("restore"):
            found = restore(None, A, y, config.method).images
        with clock("to 8 bits, two pictures"):
            pixels, measured = ([metrics.to_uint8(x) for x in some] for some in (found, y))
        with clock("PNG, three pictures"):
            _ = [encode_png(x) for x in (*pixels, *measured, *(image.pixels for image in images))]
        pairs = [(image.pixels, x) for image, x in zip(images, pixels, strict=True)]
        with clock("PSNR"):
            _ = [metrics.psnr(*pair) for pair in pairs]
        with clock("SSIM"):
            _ = [metrics.ssim(*pair) for pair in pairs]
    with clock("all of these, by the actor's code"):
        rows = restorer(given)
    with clock("commit"):
        for first in range(0, count, pool.commit_every(config, "cpu")):
            part = rows[first : first + pool.commit_every(config, "cpu")]
            commits.commit(OutputFolder(config.output), shard.name, part)
    return took
