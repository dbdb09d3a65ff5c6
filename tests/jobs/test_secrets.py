"""What stands in the environment of a job is found in nothing that the job writes or prints."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from jobs.console import readable_errors
from tests.pipeline.small_jobs import png, settings, write_parquet

SECRET = "5ecretV4lue"
NAMES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "GOOGLE_API_KEY", "STORE_PASSWORD")


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's own logs; its sockets stand there too, so that the path must be short."""
    with tempfile.TemporaryDirectory(prefix="p2l-", dir="/tmp") as name:
        yield Path(name)


def files_with_secrets(folder: Path) -> list[str]:
    return [
        str(path) for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


@pytest.mark.slow
def test_no_value_of_the_environment_is_written_or_printed(tmp_path: Path, ray_folder: Path) -> None:
    """In a run with good and bad rows, its report, and a run that is refused."""
    write_parquet(tmp_path / "in" / "x.parquet", {"good": png(1), "bad": b"no image"})
    (tmp_path / "job.yaml").write_text(
        "\n".join(f"{name}: {value}" for name, value in settings(tmp_path / "in", tmp_path / "out").items())
    )
    environment = os.environ | dict.fromkeys(NAMES, SECRET) | {"RAY_TMPDIR": str(ray_folder)}
    printed = ""
    for command, status in (
        (["restore", "job.yaml"], 3),
        (["report", "out"], 0),
        (["restore", "job.yaml", "--set", "input=nothing", "--set", "output=other"], 1),
    ):
        arguments = [sys.executable, "-c", "from jobs.cli import main; main()", *command]
        done = subprocess.run(
            arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == status, done.stdout + done.stderr
        printed += done.stdout + done.stderr
    assert SECRET not in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"run.json", "summary.json", "report.html"}
    assert files_with_secrets(tmp_path) == []
    assert any(ray_folder.rglob("*.log")), "Ray wrote its logs here"
    assert files_with_secrets(ray_folder) == []


def test_commands_print_no_credentials_of_urls(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://user:pa55@host/x.parquet?X-Amz-Signature=5ig"
    with pytest.raises(typer.Exit), readable_errors():
        raise OSError(f"{url}: out of reach")
    shown = capsys.readouterr().err
    assert "host/x.parquet" in shown and "pa55" not in shown and "5ig" not in shown
