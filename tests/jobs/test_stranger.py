"""What somebody adds in one file and one line is there for every command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = '''
"""A sensor that reads every n-th column."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import Tensor

from p2l_engine.operators.base import ImageShape, LinearOperator, Shape
from p2l_engine.operators.settings import Data, OperatorSettings


@dataclass(frozen=True, eq=False)
class EveryColumn(LinearOperator):
    step: int
    name: str = "columns"

    def measurement_shape(self, image_shape: Shape) -> Shape:
        return (*image_shape[:2], image_shape[2] // self.step)

    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        channels, height, width = measurement_shape
        return channels, height, width * self.step

    def __call__(self, x: Tensor) -> Tensor:
        return x[..., :: self.step]


class Columns(OperatorSettings):
    name: Literal["columns"] = "columns"
    step: int = Field(2, ge=1, description="a whole number of at least 1")

    def make(self, data: Data) -> EveryColumn:
        return EveryColumn(self.step)
'''
SOLVER = '''
"""Whatever was measured, the same grey."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from p2l_engine.solvers.adjoint import ImageState
from p2l_engine.solvers.base import Problem, Solver


class Grey(Solver):
    name: Literal["grey"] = "grey"
    value: float = Field(0.0, ge=-1, le=1, description="a number from -1 to 1")

    def start(self, prior: None, problem: Problem) -> ImageState:
        return ImageState(problem.y.new_full((len(problem.y), *problem.image_shape), self.value))

    def images(self, prior: None, problem: Problem, state: ImageState) -> Tensor:
        return state.x
'''
COMMANDS = """
from typer.testing import CliRunner
from jobs.cli import app

for command in (
    "image in.png columns.png --operator columns --method adjoint --set noise=0",
    "image in.png grey.png --operator columns --method grey --set method.value=0.2",
    "image in.png wrong.png --operator columns --method grey --set operator.stepp=2 --set method.value=2",
):
    result = CliRunner().invoke(app, command.split())
    print(result.exit_code, result.output)
"""


def add_line(path: Path, after: str, line: str) -> None:
    text = path.read_text()
    assert text.count(after) == 1
    path.write_text(text.replace(after, after + line))


def test_an_operator_and_a_solver_of_one_file_and_one_line_each_run_through_the_command_line(
    tmp_path: Path,
) -> None:
    for package in ("p2l_engine", "pipeline", "jobs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    engine = tmp_path / "p2l_engine"
    (engine / "operators" / "columns.py").write_text(OPERATOR)
    (engine / "solvers" / "grey.py").write_text(SOLVER)
    operators, solvers = engine / "operators" / "build.py", engine / "solvers" / "__init__.py"
    before = "from p2l_engine.operators.base import LinearOperator, Shape\n"
    add_line(operators, before, "from p2l_engine.operators.columns import Columns\n")
    add_line(operators, "    Denoising,\n", "    Columns,\n")
    before = "from p2l_engine.solvers.bicubic import Bicubic\n"
    add_line(solvers, before, "from p2l_engine.solvers.grey import Grey\n")
    add_line(solvers, "AnySolver = ", "Grey | ")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")

    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert (tmp_path / "columns.png").is_file(), done.stdout + done.stderr
    columns = np.asarray(Image.open(tmp_path / "columns.png"))
    assert (columns[:, ::2] == pixels[:, ::2]).all()
    assert (abs(columns[:, 1::2].astype(int) - 127.5) < 1).all(), "nothing is known of the other columns"
    assert (np.asarray(Image.open(tmp_path / "grey.png")) == 153).all()
    assert "operator.stepp: no setting of columns; allowed: step; did you mean step?" in done.stdout
    assert "method.value: got 2; allowed: a number from -1 to 1" in done.stdout
