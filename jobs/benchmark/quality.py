"""Compare the methods on held-out images: ``python -m jobs.benchmark quality``.

Every finished cell (task, method, seed) is appended to the records at once; a command given again does what
is missing. Cells come seed by seed, so that an interrupted run has every method before it has every seed.
"""

import csv
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

import p2l_engine
from jobs.benchmark.cells import ROWS, held_out, run_cell
from pipeline.output.columns import METRIC_COLUMNS

FIELDS = ("task", "method", "seed", "key", *METRIC_COLUMNS)
Record = dict[str, str]


def run(
    records: Path, images: int, seeds: int, steps: int | None, tasks: list[str], methods: list[str]
) -> None:
    """Compute the cells that ``records`` lacks, saving after each."""
    model = p2l_engine.load_model("tiny")
    batch = held_out(images)
    done = {(r["task"], r["method"], int(r["seed"])) for r in read(records)}
    todo = [
        cell
        for seed in range(seeds)
        for row in methods
        for task in tasks
        if (cell := (task, row, seed)) not in done
    ]
    for i, (task, row, seed) in enumerate(todo, 1):
        started = time.monotonic()
        figures = run_cell(model, ROWS[row], task, batch, seed, steps)
        seconds = (time.monotonic() - started) / len(figures)
        _append(
            records,
            [
                {
                    "task": task,
                    "method": row,
                    "seed": str(seed),
                    "seconds": f"{seconds:.3f}",
                    "key": str(f["key"]),
                }
                | {name: f"{f[name]:.4f}" for name in METRIC_COLUMNS if name in f}
                for f in figures
            ],
        )
        psnr = fmean(f["psnr"] for f in figures)
        print(
            f"{i}/{len(todo)}  {task}, {row}, seed {seed}: {psnr:.2f} dB, {seconds:.2f} s an image",
            flush=True,
        )


def read(records: Path) -> list[Record]:
    """All records of the file; none if it does not exist."""
    if not records.exists():
        return []
    with records.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(records: Path, rows: list[Record]) -> None:
    new = not records.exists()
    with records.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def overview(records: list[Record], tasks: Iterable[str], methods: Iterable[str]) -> str:
    """Markdown: a row a method, a column a task, in each cell PSNR in dB and its gain over another method."""
    tasks, psnr = list(tasks), _by_run(records, "psnr")
    lines = ["| method | gain over | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 2) + "|"]
    for method in methods:
        against = ROWS[method].against or ""
        cells = []
        for task in tasks:
            here, there = psnr.get((task, method)), psnr.get((task, against))
            gain = f" ({_paired(here, there)})" if here and there else ""
            cells.append(f"{fmean(here.values()):.2f}{gain}" if here else "")
        if any(cells):
            lines.append(f"| {method} | {against} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(records: list[Record], tasks: Iterable[str], methods: Iterable[str]) -> str:
    """Markdown: a row for each task and method, with every figure and its gain over the method named."""
    figures = {name: _by_run(records, name) for name in METRIC_COLUMNS}
    lines = [
        "| task | method | PSNR, dB | SSIM | residual | s | gain over | PSNR | SSIM | images x seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for here in ((task, method) for task in tasks for method in methods if (task, method) in figures["psnr"]):
        task, method = here
        against = ROWS[method].against or ""
        psnr, ssim, residual = (fmean(figures[name][here].values()) for name in ("psnr", "ssim", "residual"))
        seconds = min(figures["seconds"][here].values())  # other work on the machine makes a cell slower
        gains = [
            _paired(figures[name][here], figures[name].get((task, against), {}), digits)
            for name, digits in (("psnr", 2), ("ssim", 3))
        ]
        keys, seeds = (len(set(part)) for part in zip(*figures["psnr"][here], strict=True))
        lines.append(
            f"| {task} | {method} | {psnr:.2f} | {ssim:.3f} | {residual:.3f} | {seconds:.2f} | {against} "
            f"| {' | '.join(gains)} | {keys} x {seeds} |"
        )
    return "\n".join(lines)


Runs = dict[tuple[str, str], float]  # of one figure, by image (its key) and seed


def _by_run(records: list[Record], name: str) -> dict[tuple[str, str], Runs]:
    """Figure ``name`` by (task, method)."""
    values: dict[tuple[str, str], Runs] = defaultdict(dict)
    for r in records:
        values[r["task"], r["method"]][r["key"], r["seed"]] = float(r[name])
    return values


def _paired(here: Runs, there: Runs, digits: int = 2) -> str:
    """Mean difference over images (of each, the mean over seeds that both have) and its standard error."""
    by_image: dict[str, list[float]] = defaultdict(list)
    for key, seed in here.keys() & there.keys():
        by_image[key].append(here[key, seed] - there[key, seed])
    return gain([fmean(of_one) for of_one in by_image.values()], digits) if len(by_image) > 1 else ""


def gain(differences: Sequence[float], digits: int = 2) -> str:
    """Mean of the differences of two images or more, and its standard error."""
    error = stdev(differences) / len(differences) ** 0.5
    return f"{fmean(differences):+.{digits}f} ± {error:.{digits}f}"
