"""Rows of Parquet files, tars and folders of images: their shards, keys, and damaged files."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import limits
from pipeline.input import sources
from pipeline.input.rows import SourceError
from pipeline.input.sources import Shard, list_shards
from pipeline.input.tar_rows import tar_samples
from pipeline.stores import storage
from tests.pipeline.small_jobs import png, write_parquet, write_tar


def only(source: Path | str) -> Shard:
    (shard,) = list_shards([str(source)])
    return shard


def everything(shard: Shard) -> list[sources.InputRow]:
    return list(sources.rows(shard, [True] * len(sources.keys(shard))))


def test_parquet_rows_have_bytes_or_structs_and_optional_columns(tmp_path: Path) -> None:
    images = {"a": {"bytes": png(1), "path": "a.png"}, "b": {"bytes": png(2), "path": None}}
    shard = only(write_parquet(tmp_path / "x.parquet", images, prompt=["a cat", None], extra=[1, 2]))
    assert sources.keys(shard) == ["a", "b"]
    first, second = everything(shard)
    assert (first.image, first.prompt, first.source_shard) == (png(1), "a cat", "x")
    assert (second.image, second.prompt, second.error) == (png(2), None, None)


def test_only_the_wanted_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"key": [str(row) for row in range(40)], "image": [png(row) for row in range(40)]})
    pq.write_table(table, path, row_group_size=7)
    wanted = [row % 13 == 5 for row in range(40)]
    assert [row.key for row in sources.rows(only(path), wanted)] == ["5", "18", "31"]


def test_rows_of_a_shard_that_has_more_or_fewer_by_now_are_refused(tmp_path: Path) -> None:
    """Their places in it are no longer those of the keys that were read."""
    write_parquet(tmp_path / "parquet" / "s.parquet", {key: png(0) for key in "abc"})
    write_tar(tmp_path / "tar" / "s.tar", {f"{key}.png": png(0) for key in "abc"})
    (tmp_path / "images").mkdir()
    for key in "abc":
        (tmp_path / "images" / f"{key}.png").write_bytes(png(0))
    for kind in ("parquet", "tar", "images"):
        for wanted in ([False, True], [False, True, False, False]):
            with pytest.raises(SourceError, match=r"has other rows than when the run began"):
                list(sources.rows(only(tmp_path / kind), wanted))


def test_a_damaged_page_makes_errors_of_its_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"key": ["a", "b"], "image": [png(1), png(2)]})
    pq.write_table(table, path, row_group_size=1, compression="zstd", use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    first, second = everything(only(path))
    assert first.error is None
    assert (
        second.key == "b" and second.image is None and str(second.error).startswith("cannot read the row: ")
    )


def test_cells_of_other_kinds_are_error_rows(tmp_path: Path) -> None:
    (row,) = everything(only(write_parquet(tmp_path / "x.parquet", {"a": png(1)}, mask=["text"])))
    assert (
        row.error
        == "mask column cannot be used: expected bytes, a struct of bytes, or nested numbers, got string; "
        "paths and addresses are not followed"
    )
    (row,) = everything(only(write_parquet(tmp_path / "x.parquet", {"a": png(1)}, mask=[[[1, 0]]])))
    assert np.load(io.BytesIO(row.mask or b"")).tolist() == [[1, 0]]


def test_parquet_without_the_columns_says_which_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "image": [b""]}), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match="no column key; its columns are id, image"):
        sources.keys(only(tmp_path / "x.parquet"))
    (tmp_path / "y.parquet").write_bytes(b"nonsense")
    with pytest.raises(SourceError, match="y.parquet: cannot be read as Parquet"):
        sources.keys(only(tmp_path / "y.parquet"))


def test_members_of_a_tar_with_one_key_are_one_row(tmp_path: Path) -> None:
    members = {
        "d/a.png": png(1),
        "d/a.mask.png": png(2),
        "d/a.txt": b" a cat \n",
        "d/a.json": b"{}",
        "d/b.c.JPG": png(3),
        "e/a.png": png(4),
    }
    shard = only(write_tar(tmp_path / "x.tar", members))
    first, second, third = everything(shard)
    assert (first.key, first.image, first.mask, first.prompt) == ("d/a", png(1), png(2), "a cat")
    assert (second.key, second.image) == ("d/b.c", png(3))
    assert (third.key, third.image) == ("e/a", png(4))


def test_a_tar_never_unpickles_and_bounds_its_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CELL_BYTES", 1000)
    members = {"a.png": png(1), "a.pkl": pickle.dumps(print), "b.png": bytes(2000), "../../c.png": png(2)}
    small, large, outside = everything(only(write_tar(tmp_path / "x.tar", members)))
    assert small.error is None and outside.error is None
    assert str(large.error).startswith("tar member too large: b.png has 2,000 bytes; at most 1,000")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x.tar"]


def test_a_tar_cut_short_has_an_error_row_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {f"{row}.png": png(row) for row in range(3)})
    whole = path.read_bytes()
    path.write_bytes(whole[: 512 + 1024 + 512 + 100])
    first, second = everything(only(path))
    assert first.error is None and str(second.error).startswith("tar is cut short: 1.png has 100 of its")
    second_header = 512 + 512 * -(-len(png(0)) // 512)
    path.write_bytes(whole[:second_header] + b"x" * 512 + whole[second_header + 512 :])
    with pytest.raises(SourceError, match=f"the header at byte {second_header} is damaged"):
        sources.keys(only(path))
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(SourceError, match="cannot be read as tar"):
        sources.keys(only(path))


def test_a_folder_of_images_is_cut_by_sorted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "IMAGES_PER_SHARD", 2)
    for name in ("b/2.PNG", "a/9.jpg", "a/10.webp", "notes.txt", "c.tiff"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(png(1))
    first, second = list_shards([str(tmp_path / "photos")])
    assert (first.name, first.files) == ("photos-00000", (("a/10.webp",), ("a/9.jpg",)))
    assert (second.name, second.files) == ("photos-00001", (("b/2.PNG",), ("c.tiff",)))
    assert [row.image for row in everything(first)] == [png(1), png(1)]
    (tmp_path / "photos" / "c.tiff").unlink()
    assert str(everything(second)[1].error).startswith("cannot read the file: ")


def test_shards_are_named_by_their_path_below_the_input(tmp_path: Path) -> None:
    for name in ("x/1.parquet", "y/1.parquet", "y/2.parquet"):
        write_parquet(tmp_path / name, {"a": b""})
    assert [shard.name for shard in list_shards([str(tmp_path)])] == ["x--1", "y--1", "y--2"]
    assert [shard.name for shard in list_shards([f"{tmp_path}/*/1.parquet"])] == ["x--1", "y--1"]
    assert [shard.name for shard in list_shards([f"file://{tmp_path}/y/2.parquet"])] == ["2"]


def test_every_problem_of_the_input_is_named_at_once(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x" / "1.parquet", {"a": b""})
    write_parquet(tmp_path / "y" / "1.parquet", {"a": b""})
    write_tar(tmp_path / "mixed" / "1.tar", {"a.png": b""})
    write_parquet(tmp_path / "mixed" / "2.parquet", {"a": b""})
    with pytest.raises(SourceError) as refused:
        list_shards([str(tmp_path / name) for name in ("x", "y", "mixed", "nowhere")])
    clash, mixed, nowhere = sorted(str(refused.value).splitlines(), key=lambda line: "input" in line)
    assert clash.startswith("shard name '1' belongs to") and "rename one" in clash
    assert "mixes 1 Parquet file and 1 tar;" in mixed and "nowhere" in nowhere


def test_any_fsspec_url_is_a_source() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    buffer = io.BytesIO()
    pq.write_table(pa.table({"key": ["a"], "image": [png(1)]}), buffer)
    memory.pipe_file("/bucket/shards/1.parquet", buffer.getvalue())
    (row,) = everything(only("memory://bucket/shards/*.parquet"))
    assert (row.key, row.image, row.source_shard) == ("a", png(1), "1")


def test_the_last_row_of_a_tar_whose_headers_are_known_is_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = only(write_tar(tmp_path / "t.tar", {f"{row}.png": png(row, side=64) for row in range(50)}).parent)
    samples = {shard.url: tar_samples(shard.url)}
    read: list[int] = []

    @contextmanager
    def counted(url: str, **options: int) -> Iterator[Any]:
        with Path(url.removeprefix("file://")).open("rb") as file:

            def read_some(size: int) -> bytes:
                read.append(size)
                return file.read(size)

            yield SimpleNamespace(read=read_some, seek=file.seek, tell=file.tell)

    monkeypatch.setattr(storage, "open_read", counted)
    wanted = [row == 49 for row in range(50)]
    (row,) = sources.rows(shard, wanted, samples.__getitem__)
    assert (row.key, row.image) == ("49", png(49, side=64))
    assert sum(read) == len(png(49, side=64))
