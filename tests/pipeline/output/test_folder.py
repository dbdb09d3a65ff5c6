"""An output folder is read as its contract says: each key once, and only what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.output.folder import SUMMARY, OutputFolder
from pipeline.output.rows import all_rows, images


def test_a_key_done_again_counts_once_with_its_ok_row(
    write_run: Callable[..., str], ok_row: Any, error_row: Any
) -> None:
    again = ok_row("k1", 1, seconds=9.0)
    run = write_run(
        {"a": [ok_row("k0", seconds=1.0), error_row("k1")]},
        {"a/0": [again, ok_row("k0", seconds=5.0)], "b/0": [ok_row("k2", 2)]},
    )
    rows = {row["key"]: row for row in all_rows(OutputFolder(run), ["seconds", "absent"]).to_pylist()}
    assert sorted(rows) == ["k0", "k1", "k2"]
    assert (rows["k0"]["seconds"], rows["k0"]["file"]) == (1.0, "restored/a.parquet")
    assert (rows["k1"]["seconds"], rows["k1"]["file"]) == (9.0, "unfinished/a/0.parquet")
    assert rows["k2"]["absent"] is None


def test_files_of_a_write_in_progress_are_not_read(write_run: Callable[..., str], ok_row: Any) -> None:
    run = write_run({"a": [ok_row("k0")]})
    (Path(run) / "restored" / ".b.parquet.1234.tmp").write_bytes(b"half")
    assert all_rows(OutputFolder(run), [])["key"].to_pylist() == ["k0"]


def test_only_the_row_groups_of_chosen_keys_are_read(write_run: Callable[..., str], ok_row: Any) -> None:
    run = write_run({"a": [ok_row(f"k{i}", i) for i in range(12)]})
    found = images(OutputFolder(run), {"restored/a.parquet": {"k5", "k6"}}, ["image"])
    assert sorted(found) == ["k5", "k6"]
    assert found["k5"]["image"]["bytes"].startswith(b"\x89PNG")


def test_an_output_in_an_object_store_is_read(write_run: Callable[..., str], ok_row: Any) -> None:
    local = write_run({"a": [ok_row("k0")]}, {"b/0": [ok_row("k1")]})
    memory = fsspec.filesystem("memory")
    memory.put(local, "/bucket/run", recursive=True)
    try:
        output = OutputFolder("memory://bucket/run")
        output.check()
        assert sorted(all_rows(output, [])["key"].to_pylist()) == ["k0", "k1"]
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no run"):
        output.check()
    assert output.json(SUMMARY) == {}
    assert len(all_rows(output, ["psnr"])) == 0
