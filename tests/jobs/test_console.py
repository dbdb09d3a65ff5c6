"""Paths and keys are printed as they are, whatever they hold."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from jobs import console
from jobs.cli import app
from pipeline.observe.progress import Progress
from pipeline.output.folder import OutputFolder
from pipeline.output.progress_json import Start
from tests.pipeline.small_jobs import png

NAMES = ("runs[red]", "a[/b]", "a[b]", "[bold]x[-bold]", ":cat:", "a]b", "[link=x]", "\\[b]")


@pytest.fixture(params=("runs[red]", "a[/b]", ":cat:"))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / request.param
    made.mkdir(parents=True)
    (made / "one.png").write_bytes(png(1))
    return made


def p2l(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, result.output


def test_commands_print_a_path_as_it_is(folder: Path, tmp_path: Path) -> None:
    plain = ("--operator", "denoising", "--method", "adjoint")
    status, shown = p2l("image", folder / "one.png", folder / "out.png", *plain)
    assert status == 0 and f"{folder / 'out.png'}  " in shown and str(folder / "out.compare.png") in shown
    status, shown = p2l("image", folder / "none.png", folder / "out.png", *plain)
    assert status == 2 and f"IN {folder / 'none.png'}: cannot be read" in shown
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    Image.new("RGB", (8, 8)).save(photographs / "one.png")
    status, shown = p2l("shard", photographs, folder / "shards")
    assert status == 0 and f"{folder / 'shards' / '00000.parquet'}: 1 images" in shown


@pytest.mark.parametrize("name", [*NAMES, "[/]"])
def test_tables_warnings_and_errors_show_text_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    for stream in ("output", "errors"):
        plain = Console(file=shown, width=200, highlight=False, markup=False, emoji=False)
        assert (
            vars(getattr(console, stream))["_markup"] is False
            and vars(getattr(console, stream))["_emoji"] is False
        )
        monkeypatch.setattr(console, stream, plain)
    console.table([name, "figure"], [[name, 1.5]], title=name)
    console.warn(name)
    console.fail(name)
    lines = [line.strip() for line in shown.getvalue().splitlines()]
    assert lines[0] == name and lines[1].startswith(name) and lines[2].startswith(name)
    assert lines[3:] == [f"warning {name}", f"error {name}"]


@pytest.mark.parametrize("name", NAMES)
def test_progress_says_text_as_it_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Start(OutputFolder(str(tmp_path))) as entry, Progress(entry, 1, 0, 1).shown() as progress:
        progress.say(name)
    assert name in capsys.readouterr().err.splitlines()
