"""Tables whose cells are ordinary runs: what is computed, what is not computed again, and what is printed."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from jobs.tables import figures, grid, held_out
from jobs.tables.grid import Cell, Grid, Part
from pipeline.config import ConfigError
from pipeline.output.folder import OutputFolder

ROWS = {
    "adjoint": Part({"method": {"name": "adjoint", "preset": "tiny", "steps": 2}}),
    "LDPS, captioned": Part({"method": {"name": "ldps", "preset": "tiny"}, **grid.PROMPTED}, "adjoint"),
}
RUN = {"adjoint": ROWS["adjoint"], "TV": Part({"method": {"name": "tv"}}, "adjoint")}
COLUMNS = {"SR x8": Part({"operator": {"name": "super_resolution", "factor": 8}})}


def test_reported_images_are_not_those_that_settings_were_tuned_on() -> None:
    reported, tuned_on = (held_out.examples(8, which) for which in (held_out.REPORTED, held_out.TUNED_ON))
    for _, here, _ in reported:
        for _, there, _ in tuned_on:
            assert np.abs(here.astype(float) - there).mean() > 1
    names = [{key.rpartition("-")[0] for key, _, _ in images[1::2]} for images in (reported, tuned_on)]
    assert not names[0] & names[1]


@pytest.mark.parametrize("side", [64, 128, 512])
def test_held_out_photographs_come_in_turn_at_any_side(side: int) -> None:
    images = held_out.photographs(30, side=side)
    assert {pixels.shape for _, pixels, _ in images} == {(side, side, 3)}
    names = [key.rpartition("-")[0] for key, _, _ in images]
    assert (
        len(set(names[:14])) == 14 and names[14:28] == names[:14] and len({key for key, _, _ in images}) == 30
    )
    assert len({pixels.tobytes() for _, pixels, _ in images[:14]}) == 14


def test_a_cell_is_the_job_that_its_row_and_column_give_together() -> None:
    table = Grid(ROWS, COLUMNS, {"input": "images", "model": "tiny", "size": 64, "method": {"steps": 3}})
    plain, captioned = (table.job(Cell(row, "SR x8", seed=5), "out") for row in ROWS)
    assert plain.output.endswith("/out/sr-x8/adjoint/seed-5") and plain.seed == captioned.seed == 5
    assert captioned.output.endswith("/out/sr-x8/ldps-captioned/seed-5")
    assert (captioned.columns.prompt, plain.columns.prompt) == ("caption", "prompt")
    assert captioned.method.model_dump()["steps"] == 3
    assert captioned.operator.model_dump()["factor"] == 8


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
def test_what_is_there_is_not_computed_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    out, images = str(tmp_path / "table"), str(tmp_path / "images")
    held_out.write(f"{images}/held_out.parquet", held_out.examples(2))
    table = Grid(RUN, COLUMNS, {"input": images, "model": "tiny", "size": 64, "method": {"steps": 2}})
    assert len(list(grid.run(table, out, seeds=1))) == 2
    assert [line.split(":")[0] for line in grid.run(table, out, seeds=2)] == [
        "1/2  SR x8, adjoint, seed 1",
        "2/2  SR x8, TV, seed 1",
    ]
    starts = OutputFolder(Cell("adjoint", "SR x8", 0).folder(out)).json("run.json")["starts"]
    assert len(starts) == 1
    found = figures.read(table, out, seeds=2)
    assert {(f.images, f.seeds, f.errors) for f in found.values()} == {(2, 2, 0)}
    rows = list(csv.DictReader(io.StringIO(figures.records(table, out, seeds=2))))
    by_image = {(r["method"], r["key"], r["seed"]): float(r["psnr"]) for r in rows}
    assert len(by_image) == len(rows) == 2 * 2 * 2
    differences = [
        np.mean([by_image["TV", key, s] - by_image["adjoint", key, s] for s in "01"])
        for key in {key for _, key, _ in by_image}
    ]
    mean, error = np.mean(differences), np.std(differences, ddof=1) / 2**0.5
    assert f"({mean:+.2f} ± {error:.2f}) |" in figures.overview(table, found)
    assert f"| adjoint | {mean:+.2f} ± {error:.2f} |" in figures.every_figure(table, found)
    other = Grid(table.rows, table.columns, {**table.settings, "noise": 0.5})
    with pytest.raises(ConfigError, match="noise"):
        list(grid.run(other, out, seeds=1))
