"""From pictures to a checked and compared run, by the commands alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from jobs.cli import app
from jobs.console import Exit

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_cluster")]


def command(*arguments: str | Path, status: int = Exit.OK) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def job(tmp_path: Path, model_folder: Path) -> Path:
    """Five pictures in three shards, of which the last is broken, and a job that enlarges their means."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(4):
        crop = data.chelsea()[60:92, 80 + 32 * number : 112 + 32 * number]
        Image.fromarray(crop).save(photographs / f"{number}.png")
    (photographs / "4.png").write_bytes(b"no picture")
    command("shard", photographs, tmp_path / "shards", "--rows", "2")
    path = tmp_path / "job.yaml"
    path.write_text(
        f"input: {tmp_path}/shards\noutput: {tmp_path}/out\nmodel: {model_folder}\nsize: null\nworkers: 1\n"
        "operator: {name: super_resolution, factor: 4}\nmethod: {name: adjoint, preset: null}\n"
    )
    return path


def test_a_job_is_restored_by_shards_verified_reported_and_compared(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "2 of 2 rows restored, 0 errors" in command("restore", job, "--shards", "00001")
    assert [path.stem for path in (out / "restored").iterdir()] == ["00001"]
    assert "is missing" in command("verify", out, status=Exit.ROWS_FAILED)

    assert "4 of 5 rows restored, 1 error" in command("restore", job, status=Exit.ROWS_FAILED)
    assert "4 of 5 rows restored, 1 error" in command("restore", job, status=Exit.ROWS_FAILED)
    command("verify", out)
    command("report", out)
    assert (out / "report.html").exists()
    refusal = command("restore", job, "--set", "noise=0.2", status=Exit.BAD_REQUEST)
    assert "noise" in refusal and "0.01" in refusal and "0.2" in refusal

    noisy = ("--set", f"output={tmp_path}/noisy", "--set", "noise=0.1", "--shards", "0000[01]")
    command("restore", job, *noisy)
    compared = command("compare", out, tmp_path / "noisy")
    assert "psnr" in compared and "another task: noise" in compared


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
    progress = re.compile(r"restored 0 of 5 rows|\d+ actors? on cpu to begin with")
    (message,) = [line for line in shown.splitlines() if not progress.match(line)]
    assert message.startswith("error no worker could start: ") and str(weights) in message
