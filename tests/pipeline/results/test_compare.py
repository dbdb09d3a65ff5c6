"""`compare` pairs runs on key and says what a reader must know beside the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from pipeline.results.compare import compare, paired_runs
from tests.pipeline.scores.here import scored_here


def test_runs_are_joined_on_key_whatever_their_order_and_shards(
    write_run: Callable[..., str], ok_row: Any, error_row: Any
) -> None:
    rows = [ok_row(f"k{i}", i) for i in range(6)]
    better = [row | {"psnr": row["psnr"] + 0.5 + 0.1 * i, "seconds": 1.0} for i, row in enumerate(rows)]
    better[4] = error_row("k4")
    first = write_run({"a": rows}, name="first")
    second = write_run({"x": better[3:], "y": [*better[:2][::-1], ok_row("new", 1)]}, name="second")
    result = compare([first, second])
    by_metric = {d.metric: d for d in result.differences}
    psnr = by_metric["psnr"]
    assert psnr.count == 4  # k0, k1, k3, k5: k2 is missing and k4 failed
    assert psnr.difference == pytest.approx(np.mean([0.5, 0.6, 0.8, 1.0]))
    assert psnr.low is not None and psnr.high is not None and psnr.low < psnr.difference < psnr.high
    assert psnr.mean - psnr.first_mean == pytest.approx(psnr.difference)
    assert by_metric["seconds"].mean == 1.0
    assert result.notes == (
        f"1 keys of {first} are missing in {second}",
        f"1 keys of {second} are missing in {first}",
        f"1 images failed in {second} or in the first run and are left out",
    )


def test_an_image_of_several_runs_counts_once(
    write_run: Callable[..., str], ok_row: Any, error_row: Any
) -> None:
    """Of three images in two pairs of runs: one fails in one pair, which leaves it the other's difference."""
    psnr = {"a": [20.0, 24.0, 28.0], "b": [21.0, 25.5, 27.0], "c": [20.0, 22.0, 30.0], "d": [22.0, 25.0, 0.0]}
    runs = {
        name: write_run({"a": [ok_row(f"k{i}", psnr=of) for i, of in enumerate(values)]}, name=name)
        for name, values in psnr.items()
        if name != "d"
    }
    last = [ok_row("k1", psnr=25.0), ok_row("k0", psnr=22.0), error_row("k2")]
    runs["d"] = write_run({"a": last}, name="d")
    found = paired_runs([runs["a"], runs["c"]], [runs["b"], runs["d"]])
    gains = np.array([(1 + 2) / 2, (1.5 + 3) / 2, -1])
    assert list(found) == ["psnr", "ssim", "residual", "seconds"]
    assert astuple(found["psnr"]) == pytest.approx(
        (3, (20 + 23 + 28) / 3, (21.5 + 25.25 + 27) / 3, gains.mean(), gains.std(ddof=1) / 3**0.5)
    )
    assert paired_runs([runs["a"]], [runs["b"]])["psnr"].difference == pytest.approx((1 + 1.5 - 1) / 3)
    with pytest.raises(ValueError, match="got 1 and 2 runs"):
        paired_runs([runs["a"]], [runs["b"], runs["d"]])
    with pytest.raises(ValueError, match="no key in common"):
        paired_runs([runs["a"]], [write_run({"a": [ok_row("other")]}, name="other")])


def test_scores_are_compared_as_metrics_are_and_sets_by_resampling(
    write_run: Callable[..., str], ok_row: Any
) -> None:
    """A run enlarged from a fourth against one from a half: closer in each image, and as a set."""
    runs = [
        write_run({"a": [ok_row(f"k{i}", i, factor=factor) for i in range(12)]}, name=f"by-{factor}")
        for factor in (4, 2)
    ]
    sets = [{one["name"]: one["value"] for one in scored_here(runs[0])["sets"]}]
    (note,) = compare(runs).notes
    assert note == f"{runs[1]} has no scores by efficientnet, {runs[0]} has: p2l score {runs[1]}"
    sets.append({one["name"]: one["value"] for one in scored_here(runs[1])["sets"]})
    found = {d.metric: d for d in compare(runs).differences}
    for name in ("fd_efficientnet", "kd_efficientnet"):
        assert (found[name].first_mean, found[name].mean) == pytest.approx((sets[0][name], sets[1][name]))
    for name in ("perceptual_efficientnet", "fd_efficientnet", "kd_efficientnet"):
        (low, high), gain = (found[name].low, found[name].high), found[name].difference
        assert found[name].count == 12 and low is not None and high is not None
        assert low < gain < high and gain < 0, found[name]
    assert found["perceptual_efficientnet"].high < 0 and found["fd_efficientnet"].high < 0  # type: ignore[operator]
    same = {d.metric: d for d in compare([runs[0], runs[0]]).differences}
    assert (same["fd_efficientnet"].low, same["fd_efficientnet"].high) == pytest.approx((0, 0), abs=1e-9)
    assert paired_runs(runs[:1], runs[1:])["perceptual_efficientnet"].count == 12


def test_a_scored_shard_that_failed_in_the_other_run_is_left_out(
    write_run: Callable[..., str], ok_row: Any, error_row: Any
) -> None:
    rows = [ok_row(f"k{i}", i) for i in range(4)]
    whole = write_run({"a": rows[:3], "b": rows[3:]}, name="whole")
    failed = write_run({"a": rows[:3], "b": [error_row("k3")]}, name="failed")
    for run in (whole, failed):
        scored_here(run)
    found = {d.metric: d.count for d in compare([whole, failed]).differences}
    assert found["fd_efficientnet"] == found["perceptual_efficientnet"] == 3


def test_sets_of_runs_without_originals_are_said_not_to_be_compared(
    write_run: Callable[..., str], ok_row: Any
) -> None:
    rows = [ok_row(f"k{i}", i) | {"psnr": None, "ssim": None} for i in range(3)]
    against = write_run({"a": rows}, name="against")
    runs = [
        write_run({"a": [row | {"reference": None} for row in rows]}, name=name, mode="restore", size=None)
        for name in ("one", "other")
    ]
    for run in runs:
        scored_here(run, against)
    assert f"{' and '.join(runs)}: without originals, so their sets are not compared" in compare(runs).notes


def test_metrics_that_one_run_lacks_are_left_out(write_run: Callable[..., str], ok_row: Any) -> None:
    rows = [ok_row(f"k{i}", i) for i in range(3)]
    bare = [row | {"psnr": None, "ssim": None} for row in rows]
    result = compare([write_run({"a": rows}, name="first"), write_run({"a": bare}, name="second")])
    assert [d.metric for d in result.differences] == ["residual", "seconds"]


def test_another_operator_or_noise_is_said(write_run: Callable[..., str], ok_row: Any) -> None:
    rows = [ok_row("k", 0)]
    first = write_run({"a": rows}, name="first")
    operator = {"name": "super_resolution", "factor": 8}
    other = write_run({"a": rows}, name="other", noise=0.05, operator=operator)
    notes = compare([first, other]).notes
    assert any("noise is 0.05, 0.01 in the first run" in note for note in notes)
    assert any("operator is" in note and "'factor': 8" in note for note in notes)
    assert len(notes) == 2


def test_runs_that_share_no_key_are_refused(write_run: Callable[..., str], ok_row: Any) -> None:
    first = write_run({"a": [ok_row("k0")]}, name="first")
    second = write_run({"a": [ok_row("k1")]}, name="second")
    with pytest.raises(ValueError, match="no key in common"):
        compare([first, second])
    with pytest.raises(ValueError, match="at least two"):
        compare([first])
    with pytest.raises(FileNotFoundError, match="holds no run"):
        compare([first, first + "-not-there"])
