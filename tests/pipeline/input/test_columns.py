"""Parquet files that others made: their columns, their keys, and pictures kept as numbers or as paths."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.input import sources
from pipeline.input.keys import bad_keys, repeated_keys
from pipeline.input.rows import InputRow, Reading, SourceError
from pipeline.input.sources import list_shards
from pipeline.run.run import RunError, run
from tests.pipeline.small_jobs import job, picture, png, write_tar


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def read(source: Path, reading: Reading = Reading()) -> list[InputRow]:  # noqa: B008  it is frozen
    """Every row of every shard, each key once."""
    found: list[InputRow] = []
    for shard in list_shards([str(source)], reading):
        keys = sources.keys(shard)
        found += sources.rows(shard, [True] * len(keys))
        assert [row.key for row in found][-len(keys) :] == keys
    return found


def refusal(source: Path, reading: Reading = Reading()) -> str:  # noqa: B008  it is frozen
    with pytest.raises(SourceError) as refused:
        read(source, reading)
    return str(refused.value)


def pixels(row: InputRow) -> np.ndarray:
    assert row.error is None
    return np.asarray(Image.open(io.BytesIO(row.image or b"")))


def test_columns_of_other_names_are_read_as_the_job_names_them(tmp_path: Path) -> None:
    made_elsewhere = write(
        tmp_path / "in" / "x.parquet",
        id=["k0", "k1"],
        jpg=[png(0), png(1)],
        hole=[png(2), None],
        caption=["a cat", None],
        image=[b"no picture", b"no picture"],
    )
    named = {"key": "id", "image": "jpg", "mask": "hole", "prompt": "caption"}
    config = job(made_elsewhere, tmp_path / "out", columns=named)
    first, second = read(made_elsewhere, config.reading)
    assert first == InputRow("k0", "x", png(0), png(2), None, "a cat")
    assert second == InputRow("k1", "x", png(1))


def test_keys_are_made_of_the_row_where_a_dataset_has_none(tmp_path: Path) -> None:
    images = [{"bytes": png(row), "path": None} for row in range(3)]
    write(tmp_path / "train" / "0.parquet", image=images[:2], label=[1, 2])
    write(tmp_path / "train" / "1.parquet", image=images[2:], label=[3])
    found = read(tmp_path / "train", Reading("row"))
    assert {row.key: row.image for row in found} == {"0/0": png(0), "0/1": png(1), "1/0": png(2)}
    (shard, _) = list_shards([str(tmp_path / "train")], Reading("row"))
    (second,) = sources.rows(shard, [False, True])
    assert (second.key, second.image) == ("0/1", png(1))


def test_keys_that_start_again_in_each_tar_get_the_shard_before_them(tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", {"000000.png": png(ord(name)), "000001.png": png(1)})
    found = read(tmp_path, Reading("shard/key"))
    assert [row.key for row in found] == ["a/000000", "a/000001", "b/000000", "b/000001"]
    assert found[2].image == png(ord("b"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_on_keys_that_start_again_says_what_helps_and_then_restores_each(tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / "in" / f"{name}.tar", {"000000.png": png(ord(name))})
    with pytest.raises(RunError, match="set `keys: shard/key`"):
        run(job(tmp_path / "in", tmp_path / "out"))
    summary = run(job(tmp_path / "in", tmp_path / "other", keys="shard/key", operator="denoising", noise=0))
    assert (summary.rows, summary.errors) == (2, 0)
    for name in "ab":
        (row,) = pq.read_table(tmp_path / "other" / "restored" / f"{name}.parquet").to_pylist()
        restored = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert row["key"] == f"{name}/000000" and (restored == np.asarray(picture(ord(name)))).all()


def test_whole_numbers_are_keys_as_text(tmp_path: Path) -> None:
    dictionary = pa.array([7, 8], pa.uint16()).dictionary_encode()
    for name, keys in {"a": pa.array([-1, 2**62]), "b": dictionary}.items():
        write(tmp_path / f"{name}.parquet", key=keys, image=[png(1), png(2)])
    assert [row.key for row in read(tmp_path)] == ["-1", str(2**62), "7", "8"]


def test_a_missing_column_names_the_setting_that_helps(tmp_path: Path) -> None:
    hub = write(tmp_path / "hub.parquet", image=[png(1)], label=[1])
    assert "no column key; its columns are image, label" in refusal(hub)
    assert "`keys: row` (--keys row)" in refusal(hub)
    crawled = write(tmp_path / "crawled.parquet", key=["a"], status=["ok"], jpg=[png(1)])
    assert "did you mean jpg? Then set `columns: {image: jpg}` (p2l shard: --columns image=jpg)" in refusal(
        crawled
    )
    lower = write(tmp_path / "lower.parquet", Key=["a"], image=[png(1)])
    assert "did you mean Key? Then set `columns: {key: Key}`" in refusal(lower)
    wrong = refusal(lower, Reading(key="id", prompt="txt"))
    assert "no column id or txt; its columns are Key, image" in wrong and "{prompt: ...}" in wrong


def test_bad_keys_name_the_setting_that_helps(tmp_path: Path) -> None:
    (shard,) = list_shards([str(write(tmp_path / "x.parquet", key=["a", None], image=[png(1), png(2)]))])
    (missing,) = bad_keys(shard, sources.keys(shard))
    assert "1 rows without a key: rows 1; give them one, or set `keys: row`" in missing
    (wrong,) = bad_keys(shard, ["a", 1.5])
    assert "1.5 (float, row 1); allowed: text and whole numbers" in wrong
    (between,) = repeated_keys({"a": [("x", 0), ("y", 3)], "b": [("x", 1)]})
    assert "'a' (x row 0, y row 3); set `keys: shard/key`" in between
    (inside,) = repeated_keys({"a": [("x", 0), ("x", 3)]})
    assert "set `keys: row`" in inside and "shard/key" not in inside


def test_the_settings_enter_the_fingerprint_once_they_change_something(tmp_path: Path) -> None:
    plain = job(tmp_path, tmp_path / "out")
    assert job(tmp_path, tmp_path / "out", keys="key", columns={"image": "image"}) == plain
    assert "keys" not in plain.settings and not any(name.startswith("columns") for name in plain.settings)
    others: list[dict[str, Any]] = [{"keys": "row"}, {"keys": "shard/key"}, {"columns": {"image": "jpg"}}]
    prints = [job(tmp_path, tmp_path / "out", **other).fingerprint for other in others]
    assert len({plain.fingerprint, *prints}) == 4


NUMBERS = np.asarray(picture(3))
GREY, ALPHA = NUMBERS[:, :, 0], np.dstack([NUMBERS, NUMBERS[:, :, 1]])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([NUMBERS.tolist()]),
        pa.array([NUMBERS.tolist()], pa.large_list(pa.list_(pa.list_(pa.uint8(), 3)))),
        pa.FixedShapeTensorArray.from_numpy_ndarray(NUMBERS[None].copy()),
    ],
    ids=["int64", "uint8", "tensor"],
)
def test_numbers_are_the_pixels_that_they_are(tmp_path: Path, column: pa.Array) -> None:
    (row,) = read(write(tmp_path / "x.parquet", key=["a"], image=column))
    assert (pixels(row) == NUMBERS).all()


@pytest.mark.parametrize("values", [GREY, GREY[:, :, None], ALPHA], ids=["grey", "one channel", "alpha"])
def test_grey_and_alpha_are_pixels_too(tmp_path: Path, values: np.ndarray) -> None:
    (row,) = read(write(tmp_path / "x.parquet", key=["a"], image=[values.tolist()]))
    assert (pixels(row) == values.squeeze()).all()


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int64()])
def test_a_list_of_bytes_is_the_file(tmp_path: Path, kind: pa.DataType) -> None:
    lists = pa.array([list(png(1)), list(png(2))], pa.list_(kind))
    first, second = read(write(tmp_path / "x.parquet", key=["a", "b"], image=[png(1), png(2)], mask=lists))
    assert (first.mask, second.mask) == (png(1), png(2))
    first, second = read(write(tmp_path / "x.parquet", key=["a", "b"], image=lists))
    assert (first.image, second.image) == (png(1), png(2))


def test_tensors_as_ray_data_writes_them_are_pictures(tmp_path: Path) -> None:
    """Ray keeps the shape in the type, which Arrow knows only where Ray Data was imported."""
    flat = pa.array([NUMBERS.ravel().tolist()], pa.large_list(pa.uint8()))
    metadata = {
        "ARROW:extension:name": "ray.data.arrow_tensor_v2",
        "ARROW:extension:metadata": json.dumps(NUMBERS.shape),
    }
    schema = pa.schema([pa.field("image", flat.type, metadata=metadata)])
    pq.write_table(pa.table([flat], schema=schema), tmp_path / "x.parquet")
    (row,) = read(tmp_path / "x.parquet", Reading("row"))
    assert (pixels(row) == NUMBERS).all()


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ((NUMBERS / 255).tolist(), "pixels of float64 have no stated range"),
        ((NUMBERS.astype(int) - 300).tolist(), "; allowed: 0 to 255"),
        (NUMBERS.transpose(2, 0, 1).tolist(), "numbers of shape 3 x 16 x 16; a picture is height x width"),
        ([[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]], "whose rows differ in length"),
        ([[[1, None, 3]]], "nulls among them"),
        ([["a"]], "got a list of string"),
        (
            {"bytes": None, "path": "/data/k0.png"},
            "a path without bytes, '/data/k0.png'; paths are not followed",
        ),
        ("https://example.org/k0.png", "got string; paths and addresses are not followed"),
    ],
    ids=["floats", "range", "channels first", "ragged", "nulls", "text in lists", "path", "address"],
)
def test_what_is_no_picture_is_an_error_row_that_says_why(tmp_path: Path, value: Any, cause: str) -> None:
    bad, none = read(write(tmp_path / "x.parquet", key=["a", "b"], image=[value, None]))
    assert bad.image is None and cause in str(bad.error)
    assert none.error == "no image: its cell of column image is null"
