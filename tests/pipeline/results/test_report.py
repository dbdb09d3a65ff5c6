"""The page says what the output holds, loads few images, and needs nothing from outside."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.output import rows as output_rows
from pipeline.output.columns import METRICS
from pipeline.output.folder import OutputFolder
from pipeline.results.report import write_report
from pipeline.results.report.charts import histogram
from pipeline.results.report.gallery import EXTREMES, LARGEST_SIDE, choose
from pipeline.results.report.text import duration, significant
from tests.pipeline.scores.here import scored_here


def page_of(output: str, **settings: Any) -> str:
    return Path(write_report(output, **settings)).read_text()


def cards(page: str) -> list[str]:
    return re.findall(r'<article class="card" aria-label="([^"]*)"', page)


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_page_shows_counts_settings_metrics_errors_and_images(
    write_run: Callable[..., str], ok_row: Any, error_row: Any
) -> None:
    rows = [ok_row(f"k{i}", i) for i in range(5)]
    failed = [error_row("e0", "image too large: 9 x 9"), error_row("e1", "image too large: 10 x 8")]
    run = write_run({"a": rows + failed}, {"b/0": [ok_row("u0", 5)]})
    page = page_of(run)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for sentence in (
        "Super resolution ×4",
        "8 rows 6 restored 2 errors 1 of the rows in unfinished shards",
        "Errors 1 cause",
        "2 image too large image too large: 9 x 9 e0 e1",
        "operator.factor 4",
        "its wall-clock time 60.0 min",
    ):
        assert sentence in text
    assert sorted(cards(page)) == ["k0", "k1", "k2", "k3", "k4", "u0"]
    assert len(pictures(page)) == 3 * 6
    assert all(name in page for name in ("Histogram of PSNR", "Histogram of SSIM", "Histogram of Residual"))


def test_scores_are_on_the_page(write_run: Callable[..., str], ok_row: Any) -> None:
    run = write_run({"a": [ok_row(f"k{i}", i) for i in range(3)]})
    assert "EfficientNet" not in page_of(run)
    distance = next(one["value"] for one in scored_here(run)["sets"] if one["name"] == "fd_efficientnet")
    page = page_of(run)
    assert "Histogram of Perceptual (EfficientNet): 3 images" in page
    assert "fd_efficientnet, 3 images from 3 of the run&#39;s own originals" in page
    assert f"<dd>{significant(distance)}</dd>" in page


def test_nothing_on_the_page_comes_from_elsewhere(write_run: Callable[..., str], ok_row: Any) -> None:
    page = page_of(write_run({"a": [ok_row("k0")]}))
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "@import" not in page and "url(" not in page and "http-equiv" in page


def test_text_from_rows_is_escaped(write_run: Callable[..., str], ok_row: Any, error_row: Any) -> None:
    evil = '"><script>alert(1)</script>'
    page = page_of(write_run({"a": [ok_row(evil), error_row(evil + "2", f"bad: {evil}")]}, prompt=evil))
    assert "<script>alert" not in page
    assert page.count("<script>") == 1


def test_best_and_worst_come_first_and_each_row_is_shown_once(
    write_run: Callable[..., str], ok_row: Any
) -> None:
    rows = [ok_row(f"k{i:02d}", i % 3) | {"psnr": 20.0 + (7 * i) % 40} for i in range(40)]
    page = page_of(write_run({"a": rows[:20], "b": rows[20:]}), sample=6)
    shown = cards(page)
    ranked = [row["key"] for row in sorted(rows, key=lambda row: -row["psnr"])]
    assert shown[:EXTREMES] == ranked[:EXTREMES]
    assert shown[EXTREMES : 2 * EXTREMES] == ranked[-EXTREMES:][::-1]
    assert len(shown) == len(set(shown)) == 2 * EXTREMES + 6
    assert "6 of 32 other images, drawn evenly, seed 0" in page


def table_of(count: int) -> pa.Table:
    keys = [f"k{i:06d}" for i in range(count)]
    psnr = np.random.default_rng(0).normal(25, 3, count)
    columns = {
        "key": keys,
        "status": ["ok"] * count,
        "psnr": psnr,
        "residual": psnr * 0,
        "file": ["a"] * count,
    }
    return pa.table(columns)


def test_sample_is_fair_and_depends_only_on_seed_and_keys() -> None:
    table = table_of(1000)
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(1000)))

    def sample(rows: pa.Table, seed: int) -> list[str]:
        return [row["key"] for row in choose(rows, 12, seed)[-1].rows]

    assert sample(table, 3) == sample(shuffled, 3) != sample(table, 4)
    hits = np.zeros(1000)
    for seed in range(300):
        hits[[int(key[1:]) for key in sample(table, seed)]] += 1
    halves = hits.reshape(2, 500).sum(1)  # 3600 draws, so 1800 expected in each half with deviation 30
    assert abs(halves[0] - halves[1]) < 200


def test_only_chosen_images_are_read(
    write_run: Callable[..., str], ok_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run({shard: [ok_row(f"{shard}{i}", i) for i in range(12)] for shard in "abc"})
    read: list[str] = []
    group_rows = output_rows.group_rows

    def counted(parquet: Any, group: int, columns: Any) -> Any:
        for row in group_rows(parquet, group, columns):
            read.append(row["key"])
            yield row

    monkeypatch.setattr(output_rows, "group_rows", counted)
    shown = cards(page_of(run, sample=0))
    groups = {(key[0], int(key[1:]) // 4) for key in shown}
    assert len(read) == 4 * len(groups)


def test_without_references_images_are_ranked_by_residual(write_run: Callable[..., str], ok_row: Any) -> None:
    unknown = {"reference": None, "psnr": None, "ssim": None}
    rows = [ok_row(f"k{i}", i, residual=0.1 - 0.01 * i) | unknown for i in range(4)]
    page = page_of(write_run({"a": rows}, mode="restore"))
    assert cards(page) == ["k3", "k2", "k1", "k0"]
    assert "lowest residual first" in page and "Histogram of PSNR" not in page
    assert 'data-label="original"' not in page and len(pictures(page)) == 8


@pytest.mark.parametrize("errors", [0, 3])
def test_run_without_a_restored_image_has_a_page(
    write_run: Callable[..., str], error_row: Any, errors: int
) -> None:
    page = page_of(write_run({"a": [error_row(f"e{i}") for i in range(errors)]}))
    assert cards(page) == []
    assert "No image has been restored" in page


def test_an_image_that_does_not_decode_leaves_the_rest_of_the_page(
    write_run: Callable[..., str], ok_row: Any
) -> None:
    broken = ok_row("broken", image={"bytes": b"\x89PNG", "path": None})
    page = page_of(write_run({"a": [ok_row("whole"), broken]}))
    assert "cannot be decoded" in page and sorted(cards(page)) == ["broken", "whole"]


def test_large_images_are_reduced(write_run: Callable[..., str], ok_row: Any) -> None:
    page = page_of(write_run({"a": [ok_row("k", side=576, factor=4)]}))
    assert [max(picture.size) for picture in pictures(page)] == [144, LARGEST_SIDE, LARGEST_SIDE]
    assert "576×576, shown smaller" in page


def test_histogram_counts_every_finite_value() -> None:
    values = np.array([20.0, 21.0, 21.5, 30.0, np.inf])
    drawn = histogram(METRICS[0], values)
    assert drawn is not None
    assert sum(int(bar.label.rsplit(": ")[1]) for bar in drawn.bars) == 4
    assert (drawn.count, drawn.infinite, drawn.median) == (4, 1, 21.25)
    same = histogram(METRICS[0], np.full(7, 3.0))
    assert same is not None and len(same.bars) == 1
    assert histogram(METRICS[0], np.array([np.inf])) is None


def test_numbers_and_times_are_written_for_people() -> None:
    assert [significant(v) for v in (1983.2, 2.1, 0.02283, 7.012e-8, 0)] == [
        "1,983",
        "2.10",
        "0.0228",
        "7.01e-08",
        "0",
    ]
    assert [duration(v) for v in (0.00107, 93, 600, 9000)] == ["0.00107 s", "93.0 s", "10.0 min", "2.5 h"]


def test_a_commit_that_goes_while_the_page_is_made_is_looked_up_again(
    write_run: Callable[..., str], ok_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run makes shard b whole after its commit was listed, and before it is read."""
    run = Path(write_run({"a": [ok_row("k0")]}, {"b/0": [ok_row("k1")]}))
    open_file = OutputFolder.open

    def compacting(output: OutputFolder, file: str) -> Any:
        commit = run / "unfinished" / "b" / "0.parquet"
        if file.startswith("unfinished/") and commit.exists():
            commit.rename(run / "restored" / "b.parquet")
        return open_file(output, file)

    monkeypatch.setattr(OutputFolder, "open", compacting)
    assert sorted(cards(page_of(str(run)))) == ["k0", "k1"]


def test_page_is_written_to_an_object_store(write_run: Callable[..., str], ok_row: Any) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(write_run({"a": [ok_row("k0")]}), "/bucket/run", recursive=True)
    try:
        url = write_report("memory://bucket/run")
        assert url == "memory://bucket/run/report.html"
        assert b"<!doctype html>" in memory.cat_file("/bucket/run/report.html")
    finally:
        memory.rm("/bucket", recursive=True)
