"""`p2l image`: one picture in, the restored one and a comparison out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from jobs.cli import app
from jobs.pictures import GAP, SEEN_SIDE


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "astronaut.png"
    Image.fromarray(data.astronaut()[:64, 180:244]).save(path)
    return path


Restore = Callable[..., str]


@pytest.fixture
def restored(model_folder: Path) -> Restore:
    """Run the command with the random model and return what it printed."""

    def run(*arguments: str | Path, status: int = 0) -> str:
        command = ["image", *map(str, arguments), "--model", str(model_folder)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == status, result.output
        return result.output

    return run


def test_plain_enlargement_keeps_the_size(photograph: Path, tmp_path: Path, restored: Restore) -> None:
    out = tmp_path / "new" / "restored.png"
    shown = restored(photograph, out, "--operator", "super_resolution", "--method", "adjoint")
    assert "PSNR" in shown and "SSIM" in shown and "residual" in shown and "seconds" in shown
    assert Image.open(out).size == (64, 64)
    width, height = Image.open(tmp_path / "new" / "restored.compare.png").size
    assert (width, height) == (3 * SEEN_SIDE + 2 * GAP, SEEN_SIDE)


def test_a_model_restores_to_the_chosen_size(photograph: Path, tmp_path: Path, restored: Restore) -> None:
    out = tmp_path / "restored.png"
    settings = ("--operator", "super_resolution", "--set", "operator.factor=4")
    restored(photograph, out, *settings, "--size", "16", "--steps", "2", "--set", "method.prompt_tuning=null")
    assert Image.open(out).size == (16, 16)


def test_a_measurement_with_its_mask_is_restored_as_it_is(
    photograph: Path, tmp_path: Path, restored: Restore
) -> None:
    mask = np.full((64, 64), 255, np.uint8)
    mask[20:30] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "restored.png"
    arguments = ("--operator", "inpainting", "--method", "adjoint", "--mask", tmp_path / "mask.png")
    shown = restored(photograph, out, *arguments, "--measurement")
    assert "PSNR" not in shown and "residual" in shown
    seen, given = np.asarray(Image.open(out)), np.asarray(Image.open(photograph))
    assert (seen[mask > 0] == given[mask > 0]).all()
    assert Image.open(tmp_path / "restored.compare.png").width == 2 * SEEN_SIDE + GAP


def test_an_operator_that_cannot_apply_to_the_size_is_refused(
    photograph: Path, tmp_path: Path, restored: Restore
) -> None:
    arguments = ("--operator", "super_resolution", "--method", "adjoint", "--size", "60")
    shown = restored(photograph, tmp_path / "out.png", *arguments, status=2)
    assert "60" in shown and "8" in shown


def p2l_image_of_own(function: str, folder: Path) -> subprocess.CompletedProcess:
    """`p2l image` on a black picture, from a folder whose mine.py has this function."""
    (folder / "mine.py").write_text(function)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "black.png")
    command = [str(Path(sys.executable).with_name("p2l")), "image", "black.png", "out.png"]
    command += ["--operator", "linear", "--set", "operator.function=mine:own", "--method", "adjoint"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_an_operator_may_be_a_function_of_a_file_in_the_current_folder(tmp_path: Path) -> None:
    done = p2l_image_of_own("def own(x):\n    return x[..., ::2, :]\n", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Image.open(tmp_path / "out.png").size == (32, 32)


def test_native_code_that_aborts_when_all_is_done_leaves_the_exit_status(tmp_path: Path) -> None:
    aborts = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.__cxa_atexit(libc.abort, None, None)\n"
    done = p2l_image_of_own(aborts + "def own(x):\n    return x * 1.0\n", tmp_path)
    assert done.returncode == 0 and "out.png" in done.stdout, done.stdout + done.stderr
