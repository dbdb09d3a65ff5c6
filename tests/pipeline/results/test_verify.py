"""`verify` finds each kind of fault in an output, and none in a sound one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.pictures.images import encode_png
from pipeline.results.verify import examine, verify


@pytest.fixture
def sound(ok_row: Any, error_row: Any) -> dict[str, list[dict[str, Any]]]:
    return {
        "a": [ok_row(f"a{i}", i) for i in range(5)] + [error_row("a9")],
        "b": [ok_row("b0", 3), ok_row("b1", 7)],
    }


def messages(output: str) -> list[str]:
    return [str(problem) for problem in verify(output)]


def edit(output: str, shard: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Rewrite a finished shard's rows."""
    file = Path(output) / "restored" / f"{shard}.parquet"
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), file)


def test_a_sound_output_has_no_problem(write_run: Callable[..., str], sound: Any) -> None:
    assert messages(write_run(sound)) == []


def test_metrics_recompute_from_the_input_where_references_are_not_kept(
    write_run: Callable[..., str], sound: Any
) -> None:
    output = write_run(sound, keep=["measurement"])
    for shard in sound:
        edit(output, shard, lambda rows: [row | {"reference": None} for row in rows])
    assert messages(output) == []
    edit(output, "b", lambda rows: [row | {"psnr": row["psnr"] + 0.01} for row in rows])
    assert [m.split(" is stored")[0] for m in messages(output)] == [
        "restored/b.parquet: b0: psnr",
        "restored/b.parquet: b1: psnr",
    ]


def drop(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[1:]


def repeat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*rows, rows[0]]


def turn(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[::-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "1 keys ('a0') of the input have no row"),
        (repeat, "1 keys ('a0') have more than one row"),
        (turn, "not in the input's order"),
    ],
)
def test_keys_that_are_not_there_once_are_named(
    write_run: Callable[..., str], sound: Any, change: Any, message: str
) -> None:
    output = write_run(sound)
    edit(output, "a", change)
    found = [problem for problem in verify(output) if problem.where == "restored/a.parquet"]
    assert len(found) == 1
    assert message in found[0].message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "done"}, "status is 'done'; allowed are ok and error"),
        ({"error": "oops"}, "an error is stated"),
        ({"status": "error", "error": None}, "no error is stated"),
        ({"status": "error", "error": "oops"}, "status is error, but there is an image"),
        ({"image": None}, "image is missing"),
        ({"image": {"bytes": b"\x89PNG broken", "path": None}}, "image does not decode as PNG"),
        ({"width": 47}, "image is 48 x 48, the row says 47 x 48"),
        (
            {"reference": {"bytes": encode_png(np.zeros((8, 8, 3), np.uint8)), "path": None}},
            "reference is 8 x 8",
        ),
        ({"psnr": 31.0}, "psnr is stored as 31.0 and recomputes to"),
        ({"ssim": None}, "ssim is stored as None and recomputes to"),
        ({"residual": float("nan")}, "residual is nan, expected a finite number"),
        ({"fingerprint": "beef"}, "fingerprint is beef"),
    ],
)
def test_a_fault_in_one_row_is_found_in_that_row(
    write_run: Callable[..., str], sound: Any, changes: dict[str, Any], message: str
) -> None:
    sound["a"][2] |= changes
    found = verify(write_run(sound))
    assert any(message in problem.message for problem in found), found
    assert {problem.key for problem in found} == {"a2"}


def test_a_truncated_image_is_found(write_run: Callable[..., str], sound: Any) -> None:
    whole = sound["b"][1]["image"]["bytes"]
    sound["b"][1]["image"] = {"bytes": whole[: len(whole) // 2], "path": None}
    assert "restored/b.parquet: b1: image does not decode" in messages(write_run(sound))[0]


def test_missing_unfinished_unreadable_and_foreign_shards_are_found(
    write_run: Callable[..., str], sound: Any, ok_row: Any
) -> None:
    output = write_run(sound, {"c/0": [ok_row("c0", 1)]})
    (Path(output) / "restored" / "a.parquet").write_bytes(b"no parquet")
    (Path(output) / "restored" / "z.parquet").write_bytes(
        (Path(output) / "restored" / "b.parquet").read_bytes()
    )
    found = "\n".join(messages(output))
    assert "restored/a.parquet: cannot be read" in found
    assert "restored/c.parquet: is missing: 1 keys ('c0')" in found
    assert "restored/z.parquet: no input shard has this name" in found
    assert "unfinished/c: holds commits" in found
    assert "restored: b0: stands in 2 shards" in found


def test_stale_counts_are_found(write_run: Callable[..., str], sound: Any) -> None:
    output = write_run(sound)
    metrics = Path(output) / "metrics.parquet"
    pq.write_table(pq.read_table(metrics).slice(1), metrics)
    (Path(output) / "summary.json").unlink()
    assert messages(output) == [
        "metrics.parquet: counts 7 rows, restored/ has 8",
        "summary.json: counts None rows, restored/ has 8",
    ]
    metrics.unlink()
    assert messages(output)[0].startswith("metrics.parquet: cannot be held against restored/")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        verify(str(tmp_path))


def test_a_sample_has_its_pixels_checked_and_all_rows_the_rest(
    write_run: Callable[..., str], sound: Any
) -> None:
    for row in sound["a"][:5] + sound["b"]:
        row["psnr"] += 1.0  # of the pixels
    sound["a"][1]["residual"] = None  # of what the row says
    output = write_run(sound)
    whole = examine(output)
    assert (whole.rows, whole.in_full, len(whole.problems)) == (8, 8, 8)
    drawn = []
    for seed in range(40):
        found = examine(output, sample=3, seed=seed)
        assert (found.rows, found.in_full) == (8, 3)
        assert found == examine(output, sample=3, seed=seed)
        assert any("a1: residual is None" in str(problem) for problem in found.problems)
        of_pixels = [problem.key for problem in found.problems if "psnr" in problem.message]
        assert len(of_pixels) in (2, 3), "an error row was drawn, or none"
        drawn += of_pixels
    assert set(drawn) == {"a0", "a1", "a2", "a3", "a4", "b0", "b1"}
    assert [str(problem) for problem in examine(output, sample=0).problems] == [
        "restored/a.parquet: a1: residual is None, expected a finite number"
    ]
    assert examine(output, sample=100) == whole


def test_a_sample_is_checked_against_the_input_where_references_are_not_kept(
    write_run: Callable[..., str], sound: Any
) -> None:
    output = write_run(sound, keep=["measurement"])
    for shard in sound:
        edit(output, shard, lambda rows: [row | {"reference": None} for row in rows])
    for seed in range(10):
        assert examine(output, sample=3, seed=seed).problems == []
