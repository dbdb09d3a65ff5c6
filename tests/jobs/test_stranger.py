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
COMMANDS = """
from typer.testing import CliRunner
from jobs.cli import app

restore = ["image", "in.png", "out.png", "--method", "adjoint", "--operator", "columns"]
for more in ([], ["--set", "operator.stepp=2", "--set", "noise=-1"]):
    result = CliRunner().invoke(app, [*restore, "--set", "noise=0", *more])
    print(result.exit_code, result.output)
"""


def add_line(path: Path, after: str, line: str) -> None:
    text = path.read_text()
    assert text.count(after) == 1
    path.write_text(text.replace(after, after + line))


def test_an_operator_of_one_file_and_one_line_runs_through_the_command_line(tmp_path: Path) -> None:
    for package in ("p2l_engine", "pipeline", "jobs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "p2l_engine" / "operators" / "columns.py").write_text(OPERATOR)
    build = tmp_path / "p2l_engine" / "operators" / "build.py"
    add_line(
        build,
        "from p2l_engine.operators.blur import GaussianBlur, GivenBlur\n",
        "from p2l_engine.operators.columns import Columns\n",
    )
    add_line(build, "    Denoising,\n", "    Columns,\n")
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

    assert done.stdout.startswith("0 "), done.stdout + done.stderr
    restored = np.asarray(Image.open(tmp_path / "out.png"))
    assert (restored[:, ::2] == pixels[:, ::2]).all()
    assert (abs(restored[:, 1::2].astype(int) - 127.5) < 1).all(), "nothing is known of the other columns"
    assert "operator.stepp: no setting of columns; allowed: step; did you mean step?" in done.stdout
    assert "noise: got -1" in done.stdout
