"""Mistakes are refused before any weights load: status 2, readable, without a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app


def refused(*arguments: str) -> str:
    """The output of a command that must end with status 2 and in a sentence."""
    result: Result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


def test_an_unknown_option_is_refused() -> None:
    assert "--retry" in refused("restore", "sr8", "--retry")


def test_every_mistake_of_a_configuration_is_named_at_once(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "input: photographs\noutput: out\nsise: 512\nnoise: -1\nmodel: {id: tiny, dtype: float8}\n"
        "operator: {name: super_resolution, factr: 4}\n"
    )
    shown = refused("restore", str(job), "--set", "seed=some")
    assert "sise" in shown and "did you mean size" in shown
    assert "noise" in shown and "-1" in shown
    assert "operator.factr" in shown and "did you mean factor" in shown
    assert "float8" in shown and "bfloat16" in shown
    assert "seed" in shown and "some" in shown


def test_a_job_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "missing.yaml" in refused("restore", str(tmp_path / "missing.yaml"))


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    for command in ("report", "verify", "score"):
        assert str(tmp_path) in refused(command, str(tmp_path)).replace("\n", "")


def test_comparing_one_run_is_refused(tmp_path: Path) -> None:
    assert "at least two" in refused("compare", str(tmp_path))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.json").write_text("{}")
    shown = refused("shard", str(tmp_path / "in"), str(tmp_path / "out"))
    assert "1 left out, text: notes.json" in shown and "Allowed are .parquet, .tar, and pictures" in shown


def test_shards_below_their_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert "would be read as rows" in refused("shard", str(tmp_path), str(tmp_path / "out"))


def test_every_wrong_price_is_named_before_the_model_loads(tmp_path: Path) -> None:
    shown = refused("plan", "sr8", "--images", "1", "--price", "abacus=1", "--price", "a100=cheap")
    assert "abacus" in shown and "a100-spot" in shown
    assert "cheap" in shown


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_picture_that_does_not_decode_is_refused(
    tmp_path: Path, model_folder: Path, content: bytes
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(content)
    out = str(tmp_path / "out.png")
    arguments = ("--operator", "denoising", "--method", "adjoint", "--model", str(model_folder))
    assert "image" in refused("image", str(picture), out, *arguments)
