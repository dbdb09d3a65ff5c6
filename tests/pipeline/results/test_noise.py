"""Residuals that are not those of the noise are told, by the chi-square of what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.results.noise import check
from pipeline.results.report import write_report
from pipeline.results.verify import examine


def rows(residuals: list[float | None], measured: list[int | None], status: str = "ok") -> pa.Table:
    return pa.table(
        {
            "key": [f"k{i}" for i in range(len(residuals))],
            "status": [status] * len(residuals),
            "residual": pa.array(residuals, pa.float64()),
            "measured": pa.array(measured, pa.int64()),
        }
    )


def test_noise_itself_fits_however_little_was_measured() -> None:
    """Residuals of noise alone: of three numbers, many are beyond half and twice the noise."""
    rng = np.random.default_rng(0)
    few, many = (rng.normal(0, 0.1, (4_000, m)) for m in (3, 3072))
    for noise in (few, many):
        residuals = np.sqrt((noise**2).mean(1))
        found = check(rows(list(residuals), [noise.shape[1]] * len(noise)), 0.1)
        assert found and found.fitting > 0.998
        assert found.expected and (residuals / 0.1 > found.expected[0]).mean() > 0.998
    assert found and found.expected == pytest.approx((0.958, 1.042), abs=0.002)
    bare = check(rows(list(np.sqrt((few**2).mean(1))), [None] * len(few)), 0.1)
    assert bare and bare.expected is None and bare.fitting < 0.95


def test_measurements_not_used_and_noise_fitted_are_told() -> None:
    found = check(rows([0.051, 0.0009, 0.01, 0.03, None], [3072] * 5), 0.01)
    assert found and (found.above, found.below, found.fitting) == (("k0",), ("k1",), 0.25)
    assert found.warnings() == [
        "1 of 4 rows did not use their measurements: their residuals are above 5 times the noise of 0.01: k0",
        "1 of 4 rows fitted the noise: their residuals are below 0.1 times the noise of 0.01: k1",
    ]
    few = check(rows([0.0009], [2]), 0.01)  # two numbers of noise may be as small by chance
    assert few and not few.below
    assert check(rows([0.05], [3072]), 0.0) is None
    assert check(rows([0.05], [3072], "error"), 0.01) is None


def test_the_page_and_verify_tell_of_them(write_run: Callable[..., str], ok_row: Any) -> None:
    made = [ok_row(f"k{i}", residual=residual, measured=432) for i, residual in enumerate((0.01, 0.06))]
    run = write_run({"a": made})
    page = Path(write_report(run)).read_text()
    assert "The residual is 0.5 to 2 times the noise of 0.01 in 50.0% of 2 rows" in page
    assert "true images 0.89 to 1.11" in page and "Histogram of Residual / noise" in page
    assert [warning.split(":")[0] for warning in examine(run).warnings] == [
        "1 of 2 rows did not use their measurements"
    ]
    shown = CliRunner().invoke(app, ["verify", run])
    assert shown.exit_code == 0 and "above 5 times the noise of 0.01: k1" in shown.output.replace("\n", " ")
    silent = write_run({"a": made}, name="silent", noise=0.0)
    assert "The job has no noise" in Path(write_report(silent)).read_text()
    assert examine(silent).warnings == ()
    given = write_run({"a": made}, name="given", mode="restore")
    assert "The noise of a run in mode restore is what its job says." in Path(write_report(given)).read_text()
