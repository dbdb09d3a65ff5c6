"""`p2l shard` keeps every byte under a key that says where it came from."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app


def picture(colour: str) -> bytes:
    png = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(png, "PNG")
    return png.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, two of them in a folder of their own, and a file that is none."""
    images = tmp_path / "photographs"
    (images / "more").mkdir(parents=True)
    for name, colour in (
        ("a", "red"),
        ("b", "green"),
        ("c", "blue"),
        ("more/a", "white"),
        ("more/d", "black"),
    ):
        (images / f"{name}.png").write_bytes(picture(colour))
    (images / "list.txt").write_text("not a picture")
    return images


def test_a_folder_becomes_shards_of_the_stated_length(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    result = CliRunner().invoke(app, ["shard", str(folder), str(out), "--rows", "2"])
    assert result.exit_code == 0, result.output
    tables = [pq.read_table(path) for path in sorted(out.iterdir())]
    assert [len(table) for table in tables] == [2, 2, 1]
    rows = {row["key"]: row["image"] for table in tables for row in table.to_pylist()}
    assert rows == {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_a_tar_becomes_shards_with_its_prompts(tmp_path: Path) -> None:
    archive = tmp_path / "photographs.tar"
    members = {"cat.png": picture("red"), "cat.txt": b"a cat", "dog.png": picture("blue")}
    with tarfile.open(archive, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    result = CliRunner().invoke(app, ["shard", str(archive), str(tmp_path / "shards")])
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "shards").iterdir()
    assert pq.read_table(path).to_pylist() == [
        {"key": "cat", "image": members["cat.png"], "prompt": "a cat"},
        {"key": "dog", "image": members["dog.png"], "prompt": None},
    ]


def test_shards_go_to_any_store(folder: Path) -> None:
    result = CliRunner().invoke(app, ["shard", str(folder), "memory://bucket/shards"])
    assert result.exit_code == 0, result.output
    assert fsspec.filesystem("memory").exists("/bucket/shards/00000.parquet")


def test_two_folders_with_one_key_are_refused(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["shard", str(folder), str(folder / "more"), str(tmp_path / "shards")])
    assert result.exit_code == 2
    assert "'a.png'" in result.output
    assert not (tmp_path / "shards").exists()
