"""Every command explains itself, quickly, under both of its names."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jobs.cli import app

COMMANDS = ("demo", "image", "shard", "plan", "restore", "report", "verify", "score", "compare")


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(f" {name} " in shown.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_an_example(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f"Example: p2l {name}" in shown.output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module_too(name: str) -> None:
    command = [sys.executable, "-m", f"jobs.{name}", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert shown.returncode == 0, shown.stderr
    assert f"Example: p2l {name}" in shown.stdout


def test_help_loads_neither_torch_nor_ray() -> None:
    code = "import sys, jobs.cli; print(sorted({'torch', 'ray', 'pyarrow', 'diffusers'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert shown.stdout.strip() == "[]", shown.stdout + shown.stderr
