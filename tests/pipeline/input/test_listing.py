"""Every file of an input becomes a row, or is named as left out with the reason and the count."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.input import files, sources
from pipeline.input.rows import SourceError
from pipeline.output.folder import OutputFolder
from pipeline.pictures import kinds
from pipeline.stores import storage
from tests.pipeline.reading import rows_of
from tests.pipeline.small_jobs import png, write_parquet, write_tar

PNG = png(1)
HEADS = {
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "gif": b"GIF89a",
    "bmp": b"BM" + bytes(12) + (40).to_bytes(4, "little"),
    "webp": b"RIFF\0\0\0\0WEBP",
    "tiff": b"II*\0",
    "avif": b"\0\0\0\x20ftypavif",
    "heic": b"\0\0\0\x18ftypheic",
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
}


def put(folder: Path, *names: str, data: bytes = PNG) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def keys(*inputs: Path | str) -> list[object]:
    return [key for shard in sources.list_shards([str(url) for url in inputs]) for key in sources.keys(shard)]


def left(*inputs: Path | str) -> dict[str, list[str]]:
    """What is left out: the examples by their reason."""
    found = sources.listing([str(url) for url in inputs]).left_out
    assert all(one.count == len(one.examples) for one in found)
    return {one.reason: list(one.examples) for one in found}


def refusal(*inputs: Path | str) -> str:
    with pytest.raises(SourceError) as refused:
        sources.listing([str(url) for url in inputs])
    return str(refused.value)


def test_pictures_are_rows_whatever_their_names_begin_with(tmp_path: Path) -> None:
    names = ("_MG_1001.JPG", "_selects/b.png", ".c.png", ".hidden/d.webp", "e.jfif")
    assert set(keys(put(tmp_path, *names))) == set(names) and not left(tmp_path)


def test_what_is_left_out_by_convention_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "__MACOSX/._a.png", "._a.png", ".DS_Store", "Thumbs.db", "_SUCCESS", ".a.png.crc")
    put(tmp_path, ".b.png.1a2b3c4d.tmp")
    assert keys(tmp_path) == ["a.png"]
    assert left(tmp_path) == {
        kinds.OF_SYSTEMS: [".DS_Store", "._a.png", "Thumbs.db", "__MACOSX/._a.png"],
        kinds.OF_TABLES: [".a.png.crc", "_SUCCESS"],
        kinds.TEMPORARY: [".b.png.1a2b3c4d.tmp"],
    }


def test_a_shard_is_taken_out_by_its_name_or_its_folders(tmp_path: Path) -> None:
    for name in ("a.parquet", "_b.parquet", "_temporary/c.parquet", ".d.parquet"):
        write_parquet(tmp_path / name, {name: PNG})
    assert keys(tmp_path) == ["a.parquet"] == keys(f"{tmp_path}/*.parquet")
    assert left(tmp_path) == {kinds.TAKEN_OUT: [".d.parquet", "_b.parquet", "_temporary/c.parquet"]}
    assert keys(tmp_path / "_b.parquet") == ["_b.parquet"]  # named itself


def test_names_that_do_not_say_are_judged_by_their_first_bytes(tmp_path: Path) -> None:
    for name, head in HEADS.items():
        put(tmp_path, name, f"{name}.bak", f"{name}.1", data=head)
    put(tmp_path, "note", "BMI", "empty~", data=b"")
    put(tmp_path, "BMI", data=b"BMI is a measure of a person")
    assert set(keys(tmp_path)) == {f"{name}{end}" for name in HEADS for end in ("", ".bak", ".1")}
    assert left(tmp_path) == {kinds.UNKNOWN: ["BMI", "empty~", "note"]}


def test_shards_are_found_in_capitals_and_without_an_ending(tmp_path: Path) -> None:
    write_parquet(tmp_path / "A.PARQUET", {"a": PNG})
    write_parquet(tmp_path / "part-00000", {"b": PNG})
    write_parquet(tmp_path / "_part-00001", {"e": PNG})
    write_tar(tmp_path / "tars" / "B.TAR", {"c.png": PNG})
    write_tar(tmp_path / "tars" / "shard", {"d.png": PNG})
    found = sources.list_shards([f"{tmp_path}/[Ap_]*", str(tmp_path / "tars")])
    assert {shard.name: sources.keys(shard) for shard in found} == {
        "A": ["a"],
        "part-00000": ["b"],
        "B": ["c"],
        "shard": ["d"],
    }


def test_files_of_other_kinds_are_counted_by_kind(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.json", "c.CSV", "d.tar.gz", "e.zip", "f.mp4", "g.NEF", "h.npy", "i")
    put(tmp_path, "i", data=b"\x1f\x8b\x08")
    assert keys(tmp_path) == ["a.png"]
    assert left(tmp_path) == {
        "text": ["b.json", "c.CSV"],
        "compressed: decompress it with gunzip first": ["d.tar.gz", "i"],
        "compressed: decompress it with unzip first": ["e.zip"],
        "documents, sound and video": ["f.mp4"],
        "raw files of cameras, to be developed first": ["g.NEF"],
        "arrays, tables and weights of other programs": ["h.npy"],
    }


def test_counts_go_on_where_examples_end(tmp_path: Path) -> None:
    put(tmp_path, "a.png", *(f"{number}.json" for number in range(12)))
    (text,) = sources.listing([str(tmp_path)]).left_out
    assert (
        text.count == 12 and len(text.examples) == 5 and str(text).startswith("12 left out, text: 0.json, ")
    )
    assert str(text).endswith(", ...")


def test_links_are_followed_once_and_dead_ones_are_named(tmp_path: Path) -> None:
    put(tmp_path, "data/a.png", "real/b.png", "real/deep/c.png")
    (tmp_path / "data" / "class").symlink_to(tmp_path / "real")
    (tmp_path / "data" / "d.png").symlink_to(tmp_path / "real" / "b.png")
    (tmp_path / "real" / "deep" / "up").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "self").symlink_to("self")
    (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "data" / "pipe.png")
    assert keys(tmp_path / "data") == ["a.png", "class/b.png", "class/deep/c.png", "d.png"]
    assert left(tmp_path / "data") == {
        files.LOOPS: ["class/deep/up"],
        files.NOWHERE: ["class/self", "gone.png"],
        files.NO_FILES: ["pipe.png"],
    }


def test_a_path_that_is_there_is_no_glob(tmp_path: Path) -> None:
    put(tmp_path, "brackets [2021]/a.png", "brackets 2/b.png", "x*.png", "xy.png")
    assert keys(tmp_path / "brackets [2021]") == ["a.png"]
    assert keys(tmp_path / "brackets [2]") == ["brackets 2/b.png"]
    assert keys(tmp_path / "x*.png") == ["x*.png"]
    assert keys(tmp_path / "*y.png") == ["xy.png"]


def test_a_glob_means_folders_with_all_that_is_in_them(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data.parquet" / "part-0.snappy.parquet", {"a": PNG})
    write_parquet(tmp_path / "more.parquet" / "year=1" / "part-0.parquet", {"b": PNG})
    write_parquet(tmp_path / "one.parquet", {"c": PNG})
    write_parquet(tmp_path / "other" / "d.parquet", {"d": PNG})
    put(tmp_path, "data.parquet/_SUCCESS", "other/note.txt")
    found = sources.list_shards([f"{tmp_path}/*.parquet"])
    assert [shard.name for shard in found] == [
        "data.parquet--part-0.snappy",
        "more.parquet--year=1--part-0",
        "one",
    ]
    assert left(f"{tmp_path}/*.parquet") == {kinds.OF_TABLES: ["data.parquet/_SUCCESS"]}
    assert keys(f"{tmp_path}/*/") == ["a", "b", "d"]  # folders only
    assert keys(f"{tmp_path}/**/part-?.parquet") == ["b"]
    assert keys(f"{tmp_path}/o*/*") == ["d"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "such"
    assert refusal(missing) == f"input {missing}: there is no such file or folder"
    assert (
        refusal(f"{tmp_path}/*.tar") == f"input {tmp_path}/*.tar: there is no file or folder of this pattern"
    )
    assert refusal(missing / "*.tar") == f"input {missing}/*.tar: there is no folder {missing}"
    assert refusal(tmp_path) == f"input {tmp_path}: the folder is empty"
    assert "** can only be an entire path component" in refusal(f"{tmp_path}/a**b").replace("'", "")
    assert "chains of protocols with :: are not followed" in refusal("simplecache::/data")


def test_a_file_that_two_inputs_list_is_named_once(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"a": PNG})
    assert (
        refusal(path, tmp_path)
        == f"{path} is in more than one input; list it once, and of a folder one pattern"
    )
    write_parquet(tmp_path / "x--y" / "z.parquet", {"b": PNG})
    write_parquet(tmp_path / "x" / "y--z.parquet", {"c": PNG})
    assert "shard name 'x--y--z' belongs to " in refusal(tmp_path)


def test_what_cannot_be_read_is_named_with_what_would_help(tmp_path: Path) -> None:
    put(tmp_path, "a.tar.gz", "b.zip", "c.txt")
    assert "a.tar.gz: nothing to restore: compressed: decompress it with gunzip first" in refusal(
        tmp_path / "a.tar.gz"
    )
    whole = refusal(tmp_path)
    assert "1 left out, compressed: decompress it with unzip first: b.zip" in whole and "c.txt" in whole
    assert ".parquet, .tar, and pictures by name (.jpg" in whole


def test_a_mixed_folder_is_refused_with_the_pattern_that_means_one_kind(tmp_path: Path) -> None:
    write_tar(tmp_path / "wds" / "0.tar", {"a.png": PNG})
    write_parquet(tmp_path / "wds" / "0.parquet", {"a": PNG})
    put(tmp_path, "wds/0_stats.json", "files/0/a.jpg")
    put(tmp_path, "files/0/a.txt", data=b"a prompt")
    write_parquet(tmp_path / "files" / "0.parquet", {"a": PNG})
    assert refusal(tmp_path / "wds").endswith(f"such as {tmp_path}/wds/*.tar")
    assert refusal(tmp_path / "files").endswith(f"such as {tmp_path}/files/*/")
    (row,) = rows_of(sources.list_shards([f"{tmp_path}/files/*/"])[0])
    assert (row.key, row.prompt) == ("0/a.jpg", "a prompt")
    write_parquet(tmp_path / "both" / "x" / "b.parquet", {"a": PNG})
    put(tmp_path, "both/c.png")
    assert refusal(tmp_path / "both") == (
        f"input {tmp_path}/both mixes 1 Parquet file and 1 picture; give one kind as `input`, such as "
        f"{tmp_path}/both/**/*.parquet or {tmp_path}/both/*.png"
    )


def test_sidecars_belong_to_the_picture_of_their_name(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel.npy"
    np.save(kernel, np.ones((3, 3), np.float32))
    folder = put(tmp_path / "in", "cat.jpg", "x/dog.v2.png", "both.jpg", "both.png", "lone")
    put(folder, "cat.mask.png", "nobody.mask.png", data=b"mask")
    put(folder, "x/dog.v2.kernel.npy", data=kernel.read_bytes())
    put(folder, "cat.txt", "both.jpg.txt", "README.txt", data=b" a prompt \n")
    (shard,) = sources.list_shards([str(folder)])
    rows = {row.key: row for row in rows_of(shard)}
    assert list(rows) == ["both.jpg", "both.png", "cat.jpg", "lone", "x/dog.v2.png"]
    assert (rows["cat.jpg"].mask, rows["cat.jpg"].prompt, rows["cat.jpg"].image) == (b"mask", "a prompt", PNG)
    assert rows["x/dog.v2.png"].kernel == kernel.read_bytes() and rows["x/dog.v2.png"].prompt is None
    assert (rows["both.jpg"].prompt, rows["both.png"].prompt) == ("a prompt", None)
    assert [name for names in left(folder).values() for name in names] == ["README.txt", "nobody.mask.png"]
    assert keys(folder / "cat.mask.png") == ["cat.mask.png"]  # named itself


def test_sidecars_that_cannot_be_used_are_that_rows_error(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.mask.png", "a.mask.webp", "b.png", "c.png")
    put(tmp_path, "b.txt", data=b"\xff")
    (shard,) = sources.list_shards([str(tmp_path)])
    (tmp_path / "c.png").unlink()
    first, second, third = rows_of(shard)
    assert first.error == "two files for one mask: a.mask.png is one of 2"
    assert str(second.error).startswith("prompt is no UTF-8 text: ")
    assert str(third.error).startswith("cannot read the file: ") and third.image is None


def test_shard_names_fit_into_file_names_and_stay_apart(tmp_path: Path) -> None:
    long = ["x" * 226, "x" * 225 + "é" * 10]
    for name in ("short", "y" * 225, *long):
        write_parquet(tmp_path / f"{name}.parquet", {name: PNG})
    deep = "/".join(["partition_column=" + "v" * 20] * 8)
    write_parquet(tmp_path / deep / "part-0.parquet", {"deep": PNG})
    names = [shard.name for shard in sources.list_shards([str(tmp_path)])]
    assert len(set(names)) == 5 and {"short", "y" * 225, "x" * 226} <= set(names)
    output = OutputFolder(str(tmp_path / "_out"))  # whose shards are no part of the input
    for name in names:
        for file in (output.restored_file(name), output.commit_file(name, ["key"])):
            storage.write_text(output.at(file), name)
    assert set(output.restored()) == set(output.unfinished()) == set(names)
    assert names == [shard.name for shard in sources.list_shards([str(tmp_path)])]
    (pictures,) = sources.list_shards([str(put(tmp_path / "p" / ("z" * 250), "a.png"))])
    storage.write_text(output.at(output.restored_file(pictures.name)), "")
    assert pictures.name.endswith("-00000")


@pytest.mark.parametrize("name", [".parquet", "..parquet", "...parquet"])
def test_a_shards_name_is_never_a_folder_above(tmp_path: Path, name: str) -> None:
    (shard,) = sources.list_shards([str(write_parquet(tmp_path / name, {"a": PNG}))])
    assert shard.name not in ("", ".", "..")
