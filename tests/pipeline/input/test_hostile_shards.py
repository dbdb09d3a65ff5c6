"""Parquet files made to harm, and runs on hostile rows: error rows, or a refusal in time, in little room."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import limits
from pipeline.input import sources
from pipeline.input.rows import InputRow, SourceError
from pipeline.input.sources import list_shards
from pipeline.output.commits import commit, committed
from pipeline.output.folder import OutputFolder
from pipeline.run.run import RunError, run
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.pictures.test_hostile_images import Trap
from tests.pipeline.reading import everything, only, refusal
from tests.pipeline.small_jobs import job, png, write_parquet, write_shards


def arrow_memory(action: Callable[[], Any]) -> int:
    """Bytes that Arrow held above what it held at its worst before."""
    pool = pa.default_memory_pool()
    before = pool.max_memory()
    action()
    return pool.max_memory() - before


def copies(value: Any, count: int) -> pa.Array:
    """One value many times, which takes a Parquet file no more room than once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value]))


def write_copies(path: Path, **columns: Any) -> Path:
    options = {"store_schema": False, "compression": "zstd", "dictionary_pagesize_limit": 2**30}
    pq.write_table(pa.table(columns), path, **options)
    assert path.stat().st_size < 100_000
    return path


def test_a_small_parquet_file_of_huge_keys_is_refused(tmp_path: Path) -> None:
    """A file of 0.5 kB whose keys would take 3 GB."""
    bomb = write_copies(
        tmp_path / "x.parquet", key=copies("k" * 2**20, 3000), image=pa.nulls(3000, pa.binary())
    )
    assert arrow_memory(lambda: refusal(bomb)) < 2**28
    assert "its keys take more than 268,435,456 bytes; cut it into shards" in refusal(bomb)


def test_a_small_parquet_file_of_huge_images_is_error_rows(tmp_path: Path) -> None:
    """A file of 4 kB whose images would take 13 GB."""
    keys = [str(row) for row in range(200)]
    bomb = write_copies(tmp_path / "x.parquet", key=keys, image=copies(bytes(limits.CELL_BYTES + 1), 200))
    shard = only(bomb)
    found: list[InputRow] = []
    wanted = [row < 4 for row in range(200)]
    assert arrow_memory(lambda: found.extend(sources.rows(shard, wanted))) < 2**29
    assert [row.key for row in found] == keys[:4]
    assert all(str(row.error).startswith("image too large: 67,108,8") for row in found)


def test_a_small_parquet_file_of_a_mask_of_millions_of_numbers_is_an_error_row(tmp_path: Path) -> None:
    mask = pa.ListArray.from_arrays(pa.array([0, 2 * 10**7, 2 * 10**7]), pa.nulls(2 * 10**7, pa.float32()))
    bomb = write_copies(tmp_path / "x.parquet", key=["a", "b"], image=[png(1), png(2)], mask=mask)
    first, second = everything(bomb)
    assert str(first.error).startswith("mask too large: ") and second.error is None


def test_every_kind_of_binary_column_is_an_image(tmp_path: Path) -> None:
    data = png(1)
    kinds = [
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.binary(len(data)),
        pa.dictionary(pa.int32(), pa.binary()),
    ]
    for number, kind in enumerate(kinds):
        image = pa.array([data], pa.binary()).cast(kind)
        key = pa.array(["a"]).cast(
            (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))[number % 3]
        )
        pq.write_table(pa.table({"key": key, "image": image}), tmp_path / f"{number}.parquet")
        (row,) = everything(tmp_path / f"{number}.parquet")
        assert (row.key, row.image, row.error) == ("a", data, None)


@pytest.mark.parametrize(
    "junk",
    [
        [[{"a": [1]}], None],
        ["text", None],
        [True, None],
        [[["x"]], None],
        [[[1.0], [1.0, 2.0]], None],
        [{"bytes": "text", "path": None}, None],
        [{"path": "x.png"}, None],
        [[[[[1.0, 2.0]]]], None],
    ],
    ids=str,
)
@pytest.mark.parametrize("column", ["image", "mask", "kernel", "prompt"])
def test_junk_in_a_column_is_an_error_of_its_row_only(tmp_path: Path, column: str, junk: list) -> None:
    columns = {"key": ["bad", "good"], "image": [png(1), png(2)]} | {column: junk}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    given = {"operator": {"name": "inpainting", "mask": "given"}} if column == "mask" else {}
    blur = {"operator": "blur"} if column == "kernel" else {}
    worker = Restorer(job(tmp_path, tmp_path / "out", **given, **blur), ActorOptions("cpu", 4, 1))
    bad, good = worker(everything(tmp_path / "x.parquet"))
    if column == "prompt" and junk[0] == "text":
        assert bad["status"] == "ok"
    else:
        assert bad["status"] == "error" and bad["error"]
    absent = {"image": "no image: ", "mask": "no mask: ", "kernel": "no kernel: "}.get(column)
    assert str(good.get("error")).startswith(absent or "None")


def test_text_that_is_no_utf8_is_an_error_of_its_row(tmp_path: Path) -> None:
    """Parquet does not check its text; the rows beside must not suffer."""
    prompt = pa.array([b"fine", b"\xff\xfe", "\ud800".encode("utf-8", "surrogatepass"), None], pa.binary())
    text = pa.StringArray.from_buffers(4, *prompt.buffers()[1:], prompt.buffers()[0], prompt.null_count)
    columns = {"key": list("abcd"), "image": [png(row) for row in range(4)], "prompt": text}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    found = everything(tmp_path / "x.parquet")
    assert [row.error is None for row in found] == [True, False, False, True]
    assert str(found[1].error).startswith("prompt column cannot be used: 'utf-8' codec can't decode")


def test_keys_that_are_no_utf8_are_refused_with_their_row(tmp_path: Path) -> None:
    key = pa.array([b"fine", b"\xff"], pa.binary())
    text = pa.StringArray.from_buffers(2, *key.buffers()[1:], None, 0)
    pq.write_table(pa.table({"key": text, "image": [b"", b""]}), tmp_path / "x.parquet")
    assert "the key of row 1 is no UTF-8 text" in refusal(tmp_path / "x.parquet")


def test_columns_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array([b""]), pa.array([b""])], ["key", "image", "image"]
    )
    pq.write_table(table, tmp_path / "x.parquet")
    assert "more than one column image" in refusal(tmp_path / "x.parquet")


def test_a_parquet_footer_that_lies_about_its_rows(tmp_path: Path) -> None:
    """12,345 rows, and a footer that states one less somewhere: no row may be dropped without a word."""
    keys = [str(row) for row in range(12_345)]
    whole = write_copies(
        tmp_path / "x.parquet", key=pa.array(keys), image=copies(b"", len(keys))
    ).read_bytes()
    stated, less = b"\xf2\xc0\x01", b"\xf0\xc0\x01"  # 12345 and 12344 as the footer writes them
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    places = [at for at in range(footer, len(whole)) if whole.startswith(stated, at)]
    assert len(places) >= 4, "of the file, of its row group, and of the two columns"
    outcomes = set()
    for place in places:
        (tmp_path / "x.parquet").write_bytes(whole[:place] + less + whole[place + 3 :])
        shard = only(tmp_path / "x.parquet")
        try:
            found = sources.keys(shard)
        except SourceError as error:
            outcomes.add("refused" if "its footer states" in str(error) else str(error))
            continue
        rows = list(sources.rows(shard, [True] * len(found)))
        assert [row.key for row in rows] == found == keys
        outcomes.add("rows")
    assert outcomes == {"refused", "rows"}


def test_a_row_group_with_fewer_images_than_keys_has_error_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "x.parquet", {str(row): png(row) for row in range(5)})
    genuine = pq.ParquetFile.iter_batches

    def short(self: pq.ParquetFile, *arguments: Any, columns: list[str], **options: Any) -> Any:
        found = list(genuine(self, *arguments, columns=columns, **options))
        return found if columns == ["key"] else found[:3]

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", short)
    assert [row.error for row in everything(path)][2:] == [
        None,
        *["cannot read the row: its row group has fewer images than keys"] * 2,
    ]


@pytest.mark.parametrize("name", ["arrow.py_extension_type", "other.kind"])
def test_a_pickle_in_a_schema_is_not_opened(tmp_path: Path, name: str) -> None:
    trap = tmp_path / "touched"
    metadata = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickle.dumps(Trap(trap))}
    schema = pa.schema([pa.field("key", pa.string()), pa.field("image", pa.binary(), metadata=metadata)])
    pq.write_table(pa.table([["a"], [png(1)]], schema=schema), tmp_path / "x.parquet")
    (row,) = everything(tmp_path / "x.parquet")
    assert row.image == png(1) and not trap.exists()


def test_a_pickle_in_the_type_of_a_tensor_is_not_opened(tmp_path: Path) -> None:
    trap = tmp_path / "touched"
    metadata = {
        "ARROW:extension:name": "ray.data.arrow_tensor_v2",
        "ARROW:extension:metadata": pickle.dumps(Trap(trap)),
    }
    schema = pa.schema(
        [pa.field("key", pa.string()), pa.field("image", pa.large_list(pa.uint8()), metadata=metadata)]
    )
    pq.write_table(pa.table([["a"], [[0] * 12]], schema=schema), tmp_path / "x.parquet")
    assert "cannot be read as Parquet" in refusal(tmp_path / "x.parquet")
    assert not trap.exists()


def test_no_column_names_a_function_or_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`package.module:function` operators are code of the job's author, never of the data."""
    trap = tmp_path / "touched"
    (tmp_path / "trapped_module.py").write_text(f"import pathlib; pathlib.Path({str(trap)!r}).touch()")
    monkeypatch.syspath_prepend(str(tmp_path))
    named = "trapped_module:function"
    block = {"name": "linear", "function": named}
    columns = {"operator": [block], "function": [named], "method": [named], "model": [str(tmp_path)]}
    columns |= {"config": [{"operator": block}], "seed": [7], "status": ["ok"], "source_shard": ["other"]}
    found = []
    for extra in ({}, columns):
        pq.write_table(pa.table({"key": ["a"], "image": [png(1)]} | extra), tmp_path / "x.parquet")
        found += Restorer(job(tmp_path, tmp_path / "out"), ActorOptions("cpu", 1, 1))(
            everything(tmp_path / "x.parquet")
        )
    plain, crowded = ({name: cell for name, cell in row.items() if name != "seconds"} for row in found)
    assert plain == crowded and plain["status"] == "ok"
    assert not trap.exists()


AWKWARD = [
    "../../etc/passwd",
    "/abs",
    "C:\\x",
    "line\nbreak",
    "tab\t",
    "nul\0",
    "<script>alert(1)</script>",
    "\u202e",
    "k" * 100_000,
]


def test_awkward_keys_are_keys_like_others(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "x.parquet", {key: png(row) for row, key in enumerate(AWKWARD)})
    rows = Restorer(job(tmp_path, tmp_path / "out"), ActorOptions("cpu", 4, 1))(everything(tmp_path / "in"))
    output = OutputFolder(str(tmp_path / "out"))
    commit(output, "x", rows)
    assert list(committed(output, "x")) == AWKWARD
    assert {row["status"] for row in rows} == {"ok"}
    files = [path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == [("in", "x.parquet"), ("out", "unfinished")]


@pytest.mark.usefixtures("ray_cluster")
def test_shards_that_cannot_be_read_are_all_named_before_anything_is_restored(tmp_path: Path) -> None:
    """Their keys are not known, so no error rows can stand for them; the message tells what to do."""
    source = write_shards(tmp_path / "in", "abc", rows=2)
    whole = (source / "a.parquet").read_bytes()
    (source / "d.parquet").write_bytes(whole[:-20])
    (source / "e.parquet").write_bytes(b"")
    pq.write_table(pa.table({"key": [{"a": 1}], "image": [b""]}), source / "f.parquet")
    config = job(source, tmp_path / "out")
    with pytest.raises(RunError) as refused:
        run(config)
    lines = {line.split(": ")[0].rsplit("/", 1)[-1]: line for line in str(refused.value).splitlines()}
    assert sorted(lines) == ["d.parquet", "e.parquet", "f.parquet"]
    assert "cannot be read as Parquet" in lines["d.parquet"] and "begin its name with _" in lines["e.parquet"]
    assert "1 keys that are not text: {'a': 1} (dict, row 0)" in lines["f.parquet"]
    assert not (tmp_path / "out" / "restored").exists()
    for name in "def":
        (source / f"{name}.parquet").rename(source / f"_{name}.parquet")
    assert [shard.name for shard in list_shards(config.input)] == ["a", "b", "c"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_on_hostile_rows_ends_with_a_row_for_each(tmp_path: Path) -> None:
    rows: dict[str, bytes | None] = {f"good {row}": png(row) for row in range(3)}
    rows |= dict.fromkeys(AWKWARD, png(4)) | {"bomb": b"\x89PNG\r\n\x1a\n" + b"\xff" * 50, "null": None}
    prompts = ["x" * 1_000_000, *[None] * (len(rows) - 1)]
    write_parquet(tmp_path / "in" / "x.parquet", rows, prompt=prompts)
    summary = run(job(tmp_path / "in", tmp_path / "out"))
    assert (summary.rows, summary.errors, summary.exit_status) == (len(rows), 3, 3)
    stored = pq.read_table(tmp_path / "out" / "restored" / "x.parquet").to_pydict()
    assert stored["key"] == list(rows)
