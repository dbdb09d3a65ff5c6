"""From pictures to a checked and compared run, by the commands alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from jobs.cli import app
from jobs.console import Exit

pytestmark = pytest.mark.usefixtures("ray_cluster")


def command(*arguments: str | Path, status: int = Exit.OK) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def job(tmp_path: Path, model_folder: Path) -> Path:
    """Four crops of a photograph in two shards, and a job that enlarges their means."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(4):
        crop = data.chelsea()[60:92, 80 + 32 * number : 112 + 32 * number]
        Image.fromarray(crop).save(photographs / f"{number}.png")
    command("shard", photographs, tmp_path / "shards", "--rows", "2")
    path = tmp_path / "job.yaml"
    path.write_text(
        f"input: {tmp_path}/shards\noutput: {tmp_path}/out\nmodel: {model_folder}\nsize: null\n"
        "operator: {name: super_resolution, factor: 4}\nmethod: {name: adjoint, preset: null}\n"
    )
    return path


def test_a_job_is_restored_verified_reported_and_compared(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "4 of 4" in command("restore", job)
    assert "4 of 4" in command("restore", job)
    command("verify", out)
    command("report", out)
    assert (out / "report.html").exists()
    command("restore", job, "--set", f"output={tmp_path}/noisy", "--set", "noise=0.1")
    compared = command("compare", out, tmp_path / "noisy")
    assert "psnr" in compared and "another task: noise" in compared


def test_only_the_named_shards_are_restored(job: Path, tmp_path: Path) -> None:
    command("restore", job, "--shards", "00001")
    assert [path.stem for path in (tmp_path / "out" / "restored").iterdir()] == ["00001"]
    assert "is missing" in command("verify", tmp_path / "out", status=Exit.ROWS_FAILED)


def test_a_broken_picture_gives_an_error_row_and_status_3(job: Path, tmp_path: Path) -> None:
    (tmp_path / "photographs" / "2.png").write_bytes(b"no picture")
    shutil.rmtree(tmp_path / "shards")
    command("shard", tmp_path / "photographs", tmp_path / "shards", "--rows", "2")
    shown = command("restore", job, status=Exit.ROWS_FAILED)
    assert "3 of 4" in shown and "1 error" in shown
    assert json.loads((tmp_path / "out" / "summary.json").read_text())
    command("verify", tmp_path / "out")


def test_rows_that_all_fail_alike_end_the_run_with_status_4(job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(64):
        (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    shown = command("restore", job, "--set", f"input={folder}", status=Exit.LIMIT_REACHED)
    assert "rows failed alike, more than error_share = 0.2" in shown and "--retry-errors" in shown
    assert not (tmp_path / "out" / "summary.json").exists()


def test_an_actor_that_never_starts_ends_the_run_with_its_reason(job: Path, model_folder: Path) -> None:
    model = shutil.copytree(model_folder, job.parent / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    settings = ("--set", f"model={model}", "--set", "method={name: ldps, steps: 1}")
    shown = command("restore", job, *settings, status=Exit.INCOMPLETE)
    progress = re.compile(r"restored 0 of 4 rows|\d+ actors? on cpu to begin with")
    (message,) = [line for line in shown.splitlines() if not progress.match(line)]
    assert message.startswith("error no worker could start: ") and str(weights) in message


def test_a_changed_setting_is_refused_with_both_values(job: Path) -> None:
    command("restore", job)
    shown = command("restore", job, "--set", "noise=0.2", status=Exit.BAD_REQUEST)
    assert "noise" in shown and "0.01" in shown and "0.2" in shown
