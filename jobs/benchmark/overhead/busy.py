"""How busy a device is kept: a whole run whose solver sleeps in its stead, a known time a micro-batch.

As a device does that was told of its next steps before it needs them, it keeps its time within a micro-batch
whatever holds up its process; what is late between two of them it waits for.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal

from torch import Tensor

from jobs.tables import held_out
from p2l_engine.schedule import Step
from p2l_engine.solvers.base import Problem, Solver
from pipeline.config import load_config
from pipeline.run.run import run as run_job

STEPS = 50  # of a micro-batch
PHOTOGRAPHS, SIDE = 24, 256  # that the input repeats, and the side they are stored with


@dataclass(frozen=True)
class Asleep:
    """x: (B,), zeros. begun: seconds since the epoch."""

    x: Tensor
    begun: float


class Sleeper(Solver):
    """The adjoint, after `seconds`. log: a file that gets a line a micro-batch, when it began and ended."""

    name: Literal["sleeper"] = "sleeper"
    seconds: float
    log: str

    def schedule(self, prior: None) -> Sequence[Step]:
        return tuple(Step(number) for number in range(STEPS, 0, -1))

    def start(self, prior: None, problem: Problem) -> Asleep:
        return Asleep(problem.y.new_zeros(len(problem.y)), time.time())

    def step(self, prior: None, problem: Problem, state: Asleep, at: Step) -> Asleep:
        end = state.begun + self.seconds * (1 - (at.number - 1) / STEPS)
        time.sleep(max(0.0, end - time.time()))
        return state

    def images(self, prior: None, problem: Problem, state: Asleep) -> Tensor:
        with Path(self.log).open("a") as file:
            file.write(json.dumps([state.begun, time.time()]) + "\n")
        return problem.A.backproject(problem.y)


def run(seconds: float, batch: int, count: int, side: int) -> str:
    """A table in Markdown of a run on one actor: `count` micro-batches of `batch` images (side, side)."""
    with tempfile.TemporaryDirectory(prefix="p2l-busy-") as name:
        folder = Path(name)
        known = held_out.photographs(PHOTOGRAPHS, side=SIDE)
        rows = [(str(row), *known[row % PHOTOGRAPHS][1:]) for row in range(batch * count)]
        held_out.write(str(folder / "in" / "a.parquet"), rows)
        settings = {
            "input": str(folder / "in"),
            "output": str(folder / "out"),
            "size": side,
            "operator": {"name": "super_resolution", "factor": 4},
            "method": "adjoint",
            "workers": 1,
            "batch_size": batch,
        }
        sleeper = Sleeper(seconds=seconds, log=str(folder / "log"))
        done = run_job(load_config(settings).model_copy(update={"method": sleeper}))
        if done.ok != len(rows):
            raise RuntimeError(f"{done.ok} of {len(rows)} rows are ok")
        spans = [json.loads(text) for text in (folder / "log").read_text().splitlines()]
    took = median(ended - begun for begun, ended in spans)
    whole = spans[-1][1] - spans[0][0]
    waits = [begun - ended for (_, ended), (begun, _) in pairwise(spans)]
    figures = {
        "micro-batches, images of each, their side": f"{count}, {batch}, {side}",
        "busy, of the time from the first to the last": f"{seconds * count / whole:.1%}",
        "busy, were each wait the median one": f"{seconds / (seconds + median(waits)):.1%}",
        "s between two micro-batches: median, most": f"{median(waits):.3f}, {max(waits):.3f}",
        "s of a micro-batch: asked for, median": f"{seconds:g}, {took:.3f}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures.items())])
