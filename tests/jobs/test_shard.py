"""`p2l shard` keeps every byte under a key that says where it came from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from tests.pipeline.small_jobs import write_tar
from tests.stores import SECRET, Store, make_bucket, proxied


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


@pytest.mark.parametrize("source", ["folder", "shards"])
def test_only_every_nth_image_is_packed_and_no_more_than_asked_for(
    source: str, folder: Path, tmp_path: Path
) -> None:
    if source == "shards":  # of other lengths: images are counted through all of them
        CliRunner().invoke(app, ["shard", str(folder), str(tmp_path / "shards"), "--rows", "2"])
        folder = tmp_path / "shards"
    for options, keys in (
        (["--every", "2"], ["a.png", "c.png", "more/d.png"]),
        (["--first", "2"], ["a.png", "b.png"]),
        (["--every", "2", "--first", "2"], ["a.png", "c.png"]),
    ):
        out = tmp_path / "-".join(options)
        result = CliRunner().invoke(app, ["shard", str(folder), str(out), *options])
        assert result.exit_code == 0, result.output
        assert pq.read_table(out)["key"].to_pylist() == keys


def test_a_tar_becomes_shards_with_its_prompts(tmp_path: Path) -> None:
    members = {"cat.png": picture("red"), "cat.txt": b"a cat", "dog.png": picture("blue")}
    archive = write_tar(tmp_path / "photographs.tar", members)
    result = CliRunner().invoke(app, ["shard", str(archive), str(tmp_path / "shards")])
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "shards").iterdir()
    assert pq.read_table(path).to_pylist() == [
        {"key": "cat", "image": members["cat.png"], "prompt": "a cat"},
        {"key": "dog", "image": members["dog.png"], "prompt": None},
    ]


def pack(source: Path, out: Path, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit status, what is said, and the rows of all shards."""
    result = CliRunner().invoke(app, ["shard", str(source), str(out), *options])
    rows = [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return result.exit_code, " ".join(result.output.split()), rows


def write_parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_of_others_is_packed_by_its_columns_and_made_keys(tmp_path: Path) -> None:
    for name, colour in (("0", "red"), ("1", "blue")):
        write_parquet(tmp_path / "in" / f"{name}.parquet", jpg=[picture(colour)], caption=["a " + colour])
    status, said, rows = pack(tmp_path / "in", tmp_path / "out")
    assert (status, rows) == (2, [])
    assert "0.parquet: cannot be read" in said and "1.parquet: cannot be read" in said
    assert "--columns image=jpg" in said and "--keys row" in said
    options = ("--columns", "image=jpg", "--columns", "prompt=caption", "--keys", "row")
    status, _, rows = pack(tmp_path / "in", tmp_path / "out", *options)
    assert status == 0 and rows == [
        {"key": "0/0", "image": picture("red"), "prompt": "a red"},
        {"key": "1/0", "image": picture("blue"), "prompt": "a blue"},
    ]


def test_mistakes_in_the_options_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    options = ("--columns", "img=jpg", "--columns", "mask", "--keys", "rows")
    status, said, _ = pack(folder, tmp_path / "out", *options)
    assert status == 2
    assert (
        "columns.img: unknown setting; allowed: key, image, mask, kernel, prompt; did you mean image?" in said
    )
    assert "columns.mask: got ''" in said and "keys: got 'rows'; allowed: key, row" in said


def test_images_that_are_not_there_are_counted_and_never_written(tmp_path: Path) -> None:
    absent = [{"bytes": None, "path": f"/data/{name}.png"} for name in "abc"]
    source = write_parquet(tmp_path / "x.parquet", key=["a", "b", "c"], image=absent)
    status, said, rows = pack(source, tmp_path / "none")
    assert (status, rows) == (1, []) and "3 of 3 images are in no shard" in said
    assert "left out c: image column cannot be used: a path without bytes, '/data/c.png'" in said
    whole = {"bytes": picture("red"), "path": None}
    write_parquet(
        source, key=["a", "b", "c", "d"], image=[absent[0], whole, None, {"bytes": b"", "path": ""}]
    )
    status, said, rows = pack(source, tmp_path / "some")
    assert (status, rows) == (3, [{"key": "b", "image": picture("red")}])
    assert "3 of 4 images are in no shard" in said and "left out d: no image: its bytes are empty" in said


def test_a_row_without_a_key_is_refused(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "x.parquet", key=["a", None], image=[picture("red"), picture("blue")])
    status, said, rows = pack(source, tmp_path / "out")
    assert (status, rows) == (2, []) and "1 rows without a key: rows 1" in said and "--keys row" in said


def test_shards_of_before_are_not_mixed_with_new_ones(folder: Path, tmp_path: Path) -> None:
    assert pack(folder, tmp_path / "out", "--rows", "2")[0] == 0
    status, said, rows = pack(folder / "more", tmp_path / "out", "--rows", "2")
    assert status == 2 and "holds 3 shards already (00000.parquet, 00001.parquet, 00002.parquet)" in said
    assert len(rows) == 5


def test_what_is_no_picture_is_told_with_its_count(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "x.tar", {"a.png": picture("red"), "a.json": b"{}", "b.json": b"{}"})
    status, said, rows = pack(archive, tmp_path / "out")
    assert (status, [row["key"] for row in rows]) == (0, ["a"])
    assert "2 left out, members of a tar that end in .json: a.json, b.json" in said


def test_a_shard_is_cut_where_its_images_take_much_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(path.stat().st_size for path in folder.rglob("*.png"))
    monkeypatch.setattr("jobs.shard.SHARD_BYTES", largest + 1)
    assert pack(folder, tmp_path / "out")[0] == 0
    assert [len(pq.read_table(path)) for path in sorted((tmp_path / "out").iterdir())] == [2, 2, 1]


def test_files_on_a_store_are_read_side_by_side(
    s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows keep the order of the files, whichever answer comes first."""
    bucket = make_bucket(s3_store, "side-by-side")
    with proxied(s3_store) as proxy:
        proxy.delay = 0.05
        for name, setting in proxy.store.environment.items():
            monkeypatch.setenv(name, setting)
        fs = fsspec.filesystem("s3", endpoint_url=s3_store.endpoint, key="k", secret=SECRET)
        pictures = {f"{number:02d}.png": picture(f"#0000{number:02x}") for number in range(40)}
        fs.pipe({f"{bucket}/{name}": data for name, data in pictures.items()})
        result = CliRunner().invoke(app, ["shard", f"{bucket}", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    assert [(row["key"], row["image"]) for row in rows] == list(pictures.items())
    assert proxy.most["read"] > 4


def test_shards_go_to_any_store(folder: Path) -> None:
    result = CliRunner().invoke(app, ["shard", str(folder), "memory://bucket/shards"])
    assert result.exit_code == 0, result.output
    assert fsspec.filesystem("memory").exists("/bucket/shards/00000.parquet")


def test_two_folders_with_one_key_are_refused(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["shard", str(folder), str(folder / "more"), str(tmp_path / "shards")])
    assert result.exit_code == 2
    assert "'a.png'" in result.output
    assert not (tmp_path / "shards").exists()
