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
from jobs.pictures.side_by_side import GAP, SEEN_SIDE


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
    assert all(name in shown for name in ("PSNR dB", "SSIM", "Residual", "Time s"))
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
    assert "PSNR" not in shown and "Residual" in shown
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


PLAIN = ("--operator", "denoising", "--method", "adjoint", "--set", "noise=0")


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (".png", "PNG"),
        (".webp", "WEBP"),
        (".tif", "TIFF"),
        (".tiff", "TIFF"),
        (".jpg", "JPEG"),
        (".JPEG", "JPEG"),
    ],
)
def test_the_ending_of_out_is_its_format(
    photograph: Path, tmp_path: Path, restored: Restore, ending: str, kind: str
) -> None:
    out = tmp_path / f"restored{ending}"
    shown = restored(photograph, out, *PLAIN)
    with Image.open(out) as written, Image.open(photograph) as given:
        assert written.format == kind
        difference = np.abs(np.asarray(written.convert("RGB")).astype(int) - np.asarray(given))
    assert ("JPEG of quality 95 changes pixels" in shown) == (kind == "JPEG")
    assert (0 < difference.mean() < 3) if kind == "JPEG" else (difference == 0).all()


def test_out_that_cannot_be_written_is_refused_before_any_work(
    photograph: Path, tmp_path: Path, restored: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.png").symlink_to(photograph)
    (tmp_path / "hard.png").hardlink_to(photograph)
    (tmp_path / "one.compare.png").symlink_to(photograph)
    (tmp_path / "file").write_text("")
    before = photograph.read_bytes()
    for out, cause in {
        tmp_path: "is a folder; name a file in it",
        Path(): "is a folder",
        tmp_path / "restored": "its ending names no format; allowed: .png, .webp, .tif",
        tmp_path / "restored.gif": "its ending names no format",
        photograph: "would overwrite IN",
        tmp_path / "link.png": "would overwrite IN",
        tmp_path / "hard.png": "would overwrite IN",
        tmp_path / "one.png": "would overwrite IN",
        tmp_path / "file" / "out.png": "is a file, not a folder",
    }.items():
        shown = restored(photograph, out, *PLAIN, status=2)
        assert cause in shown and shown.count("error") == 1, shown
    assert photograph.read_bytes() == before
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(64, dtype=bool)).save(mask)
    inpaint = ("--operator", "inpainting", "--method", "adjoint", "--mask", mask)
    assert "would overwrite --mask" in restored(photograph, mask, *inpaint, status=2)


def test_every_mistake_of_a_command_is_named_at_once(tmp_path: Path, restored: Restore) -> None:
    page = tmp_path / "page.png"
    page.write_text("<!DOCTYPE html>")
    arguments = (page, tmp_path, "--operator", "blur", "--mask", tmp_path / "none.png", "--kernel", page)
    shown = restored(*arguments, "--steps", "0", "--set", "noise=-1", status=2)
    for cause in (
        f"OUT {tmp_path}: is a folder",
        f"IN {page}: cannot decode the image: its 15 bytes are none of",
        f"--mask {tmp_path / 'none.png'}: cannot be read, No such file",
        f"--kernel {page}: kernel cannot be used: cannot decode the image",
        "noise: ",
        "steps",
    ):
        assert cause in shown, (cause, shown)


def test_a_mask_or_kernel_that_is_missing_or_not_taken_is_named(
    photograph: Path, tmp_path: Path, restored: Restore
) -> None:
    out = tmp_path / "out.png"
    kernel = tmp_path / "kernel.npy"
    np.save(kernel, np.ones((3, 3)))
    assert "give --kernel" in restored(photograph, out, "--operator", "blur", "--method", "adjoint", status=2)
    shown = restored(photograph, out, *PLAIN, "--kernel", kernel, status=2)
    assert "--kernel: operator denoising takes none" in shown


def test_what_one_picture_would_be_restored_without_is_refused(
    photograph: Path, tmp_path: Path, restored: Restore
) -> None:
    given = ("--operator", "super_resolution", "--set", "operator.factor=4", "--size", "32")
    for setting in ("prompt_embeddings=e.npy", "caption={from: ./earlier}"):
        shown = restored(photograph, tmp_path / "out.png", *given, "--set", setting, status=2)
        assert f"{setting.split('=')[0]}: got one for a single picture" in shown
    shown = restored(photograph, tmp_path / "out.png", *given, "--measurement", status=2)
    assert "--size: got one with --measurement" in shown


def test_a_mask_of_the_photographs_size_is_fitted_and_a_doubtful_one_is_told_of(
    photograph: Path, tmp_path: Path, restored: Restore
) -> None:
    hole = np.zeros((64, 64), bool)
    hole[16:48, 16:48] = True
    inpaint = ("--operator", "inpainting", "--method", "adjoint", "--size", "32", "--set", "noise=0")
    for name, mask, told in (("right", ~hole, False), ("wrong", hole, True)):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        out = tmp_path / f"{name}-out.png"
        shown = restored(photograph, out, *inpaint, "--mask", tmp_path / f"{name}.png")
        assert ("mask may be inverted: " in shown) == told
        small = Image.open(photograph).resize((32, 32), Image.Resampling.LANCZOS)
        changed = (np.asarray(Image.open(out)) != np.asarray(small)).any(axis=2)
        assert (changed == ~mask[::2, ::2]).mean() > 0.99
