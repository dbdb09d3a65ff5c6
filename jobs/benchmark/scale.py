"""The whole pipeline on many tiny rows, with the solver that costs nothing: what the machinery itself takes.

Three starts: one is killed when a tenth of the shards are whole, one does the rest, one finds all done. The
driver's memory is sampled from outside while it works.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDE = 8  # pixels
SAMPLE_EVERY = 0.3  # seconds
MIB = 2**20
POINTS = (0.1, 0.25, 0.5, 0.75, 1.0)  # of a start, where its memory is shown


class Sample(NamedTuple):
    """seconds, CPU seconds and bytes of the driver; rows of whole shards; files of the output."""

    seconds: float
    cpu: float
    done: int
    memory: int
    files: int


@dataclass(frozen=True)
class Start:
    """One start of the command. status: None where it was killed.

    planned: seconds until all shards were scanned and restoring began, None where there was nothing to do.
    """

    status: int | None
    seconds: float
    planned: float | None
    samples: Sequence[Sample]


def run(rows: int, shard_rows: int, commit_every: int | None, folder: Path | None) -> str:
    """Restores rows, `shard_rows` to a shard, in a temporary folder below `folder`; a table in Markdown."""
    with tempfile.TemporaryDirectory(prefix="p2l-scale-", dir=folder) as name:
        place = Path(name)
        shards, output, config = place / "shards", place / "output", place / "job.yaml"
        _write_shards(shards, rows, shard_rows)
        job = {
            "input": str(shards),
            "output": str(output),
            "size": SIDE,
            "operator": {"name": "super_resolution", "factor": 4},
            "method": "adjoint",
            "workers": 1,
            "commit_every": commit_every or "auto",
        }
        config.write_text(json.dumps(job))
        number = -(-rows // shard_rows)
        killed = _start(config, output, shard_rows, kill_at=max(1, number // 10))
        if killed.status is not None or killed.planned is None:
            raise RuntimeError(f"{rows} rows are too few: the first start ended before it could be killed")
        rest = _start(config, output, shard_rows)
        finished = _start(config, output, shard_rows)
        summary = json.loads((output / "summary.json").read_text())
        if (rest.status, finished.status, summary["ok"]) != (0, 0, rows):
            raise RuntimeError(f"the starts ended with {rest.status} and {finished.status}: {summary}")
        return _table(rows, number, _size(shards), _size(output), killed, rest, finished)


def _write_shards(folder: Path, rows: int, shard_rows: int) -> None:
    """Parquet shards of PNGs of noise, each another."""
    folder.mkdir()
    for number, start in enumerate(range(0, rows, shard_rows)):
        count = min(shard_rows, rows - start)
        pixels = np.random.default_rng(number).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        keys = [f"image-{start + row:09d}" for row in range(count)]
        table = pa.table({"key": keys, "image": [_png(picture) for picture in pixels]})
        pq.write_table(table, folder / f"{number:06d}.parquet", row_group_size=64, compression="none")


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _start(config: Path, output: Path, shard_rows: int, kill_at: int | None = None) -> Start:
    """Runs `p2l restore`; killed, with all that it started, when `kill_at` shards are whole."""
    begun, planned, samples = time.time(), None, []
    command = [sys.executable, "-m", "jobs.restore", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        process = psutil.Process(driver.pid)
        while driver.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                seconds = time.time() - begun
                whole, files = _files(output)
                cpu = sum(process.cpu_times()[:2])
                if memory := process.memory_info().rss:  # none is left of a process that has ended
                    samples.append(Sample(seconds, cpu, whole * shard_rows, memory, files))
                if planned is None and _restoring(output, driver.pid):
                    planned = seconds
                if kill_at is not None and whole >= kill_at:
                    _kill([*process.children(recursive=True), process])
                    driver.wait()
                    return Start(None, seconds, planned, samples)
            time.sleep(SAMPLE_EVERY)
    return Start(driver.returncode, time.time() - begun, planned, samples)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def _restoring(output: Path, pid: int) -> bool:
    """Whether the process has told in progress.json how many rows there are."""
    with contextlib.suppress(FileNotFoundError):
        told = json.loads((output / "progress.json").read_text())
        return told["pid"] == pid and told["rows"] is not None
    return False


def _files(output: Path) -> tuple[int, int]:
    """Whole shards, and files of every kind."""
    counts = {folder: len(files) for folder, _, files in os.walk(output)}
    return counts.get(str(output / "restored"), 0), sum(counts.values())


def _size(folder: Path) -> float:
    """MiB."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MIB


def _table(
    rows: int, shards: int, given: float, written: float, killed: Start, rest: Start, finished: Start
) -> str:
    working = [sample for sample in rest.samples if rest.planned and sample.seconds >= rest.planned]
    first, last = working[0], working[-1]
    seconds = last.seconds - first.seconds
    after = [working[round(point * (len(working) - 1))] for point in POINTS]
    growth = (last.memory - after[0].memory) / max(1, last.done - after[0].done)
    figures = {
        "rows, shards": f"{rows:,}, {shards:,}",
        "input, output, MiB": f"{given:,.0f}, {written:,.0f}",
        "rows/s": f"{(rows - first.done) / seconds:,.0f}",
        "seconds to plan: first start, after the kill": f"{killed.planned:.0f}, {rest.planned:.0f}",
        "seconds of a start that finds all done": f"{finished.seconds:.1f}, of the CPU "
        f"{finished.samples[-1].cpu:.1f}",
        "driver, CPU seconds: to plan after the kill, for 1,000 rows": f"{first.cpu:.1f}, "
        f"{1000 * (last.cpu - first.cpu) / (last.done - first.done):.2f}",
        "seconds from the last shard to the end": f"{rest.seconds - last.seconds:.1f}",
        "files in the output: most, at the end": f"{max(sample.files for sample in rest.samples):,}, "
        f"{finished.samples[-1].files:,}",
        f"driver, MiB, at {', '.join(f'{point:.0%}' for point in POINTS)} of the run": ", ".join(
            f"{sample.memory / MIB:,.0f}" for sample in after
        ),
        "driver, MiB, most": f"{max(sample.memory for sample in rest.samples) / MIB:,.0f}",
        f"growth of the driver after {POINTS[0]:.0%}, bytes a row": f"{growth:,.0f}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures.items())])
