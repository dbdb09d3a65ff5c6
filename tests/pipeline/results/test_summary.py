"""What speaks against an `ok` row is told: in its row, in the summary, and at the end of the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.input.cells import npy
from pipeline.input.rows import InputRow
from pipeline.output.columns import METRICS_SCHEMA, OUTPUT_SCHEMA, Row
from pipeline.output.commits import commit
from pipeline.output.compact import compact
from pipeline.output.folder import OutputFolder
from pipeline.output.rows import metrics_of
from pipeline.pictures.masks import ALL_OBSERVED
from pipeline.results import summary
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.small_jobs import job, png

pytestmark = pytest.mark.filterwarnings("ignore:a prompt of")
LDPS = {"name": "ldps", "preset": "tiny", "steps": 1}


def rows(folder: Path, prompts: list[str]) -> list[Row]:
    config = job(folder, folder / "out", model="tiny", size=64, method=LDPS)
    given = [InputRow(str(row), "s", png(row), prompt=prompt) for row, prompt in enumerate(prompts)]
    return Restorer(config, ActorOptions("cpu", 4, 1))(given)


def test_a_prompt_that_the_model_does_not_read_to_its_end_is_told(tmp_path: Path) -> None:
    found = rows(tmp_path, ["a cat", "a cat " * 60])
    assert [row["status"] for row in found] == ["ok", "ok"]
    assert [row["warning"] for row in found] == [None, "prompt cut: the model reads 24 of its 122 tokens"]
    config, output = job(tmp_path, tmp_path / "out"), OutputFolder(str(tmp_path / "out"))
    commit(output, "s", found)
    compact(output, "s", ["0", "1"])
    summary.write(config, ["s"], 2, 1.0, {}, [])
    (told,) = json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"]
    assert (told["cause"], told["count"], told["keys"]) == ("prompt cut", 1, ["1"])
    assert summary.count(output, ["s"], 1.0).warnings == {"prompt cut": 1}


def test_a_prompt_for_a_model_that_reads_none_is_told(tmp_path: Path, pixel_folder: Path) -> None:
    method = {"name": "dds", "steps": 1, "class_label": 0}
    config = job(tmp_path, tmp_path / "out", model=str(pixel_folder), size=16, method=method)
    given = [InputRow(str(row), "s", png(row), prompt=prompt) for row, prompt in enumerate(["", "a cat"])]
    found = Restorer(config, ActorOptions("cpu", 4, 1))(given)
    assert [row["status"] for row in found] == ["ok", "ok"]
    told = "prompt not read: a pixel model takes no text"
    assert [row["warning"] for row in found] == [None, told]


def test_outputs_begun_with_other_columns_go_on(tmp_path: Path) -> None:
    found = rows(tmp_path, ["a cat", "a cat " * 60])
    config, output = job(tmp_path, tmp_path / "out"), OutputFolder(str(tmp_path / "out"))
    commit(output, "s", found[:1])
    (before,) = (tmp_path / "out" / "unfinished" / "s").iterdir()
    earlier = pq.read_table(before).drop_columns(["warning"])  # and with a column that rows no longer have
    pq.write_table(earlier.append_column("lpips", pa.nulls(1, pa.float64())), before)
    commit(output, "s", found[1:])
    compact(output, "s", ["0", "1"])
    whole = tmp_path / "out" / "restored" / "s.parquet"
    assert pq.read_schema(whole).equals(OUTPUT_SCHEMA, check_metadata=True)
    assert pq.read_table(whole)["warning"].to_pylist() == [None, found[1]["warning"]]
    pq.write_table(pq.read_table(whole).drop_columns(["warning"]), whole)
    assert metrics_of(output, "s").schema == METRICS_SCHEMA
    summary.write(config, ["s"], 2, 1.0, {}, [])
    assert summary.count(output, ["s"], 1.0).warnings == {}


def test_a_mask_that_is_hardly_meant_is_told_beside_a_cut_prompt(tmp_path: Path) -> None:
    given = {"name": "inpainting", "mask": "given"}
    config = job(tmp_path, tmp_path / "out", model="tiny", size=64, method=LDPS, operator=given)
    white = npy(np.ones((64, 64)))
    both = InputRow("a", "s", png(1), mask=white, prompt="a cat " * 60)
    (row,) = Restorer(config, ActorOptions("cpu", 1, 1))([both])
    assert row["status"] == "ok" and row["warning"].split(":")[0] == ALL_OBSERVED.split(":")[0]
    assert row["warning"].endswith("; prompt cut: the model reads 24 of its 122 tokens")
