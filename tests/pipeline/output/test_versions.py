"""A run that goes on under other versions, on another kind of device or from an older start says so."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.config import load_config
from pipeline.input.rows import InputRow
from pipeline.output import run_json
from pipeline.output.versions import changes, entry, upgrades
from pipeline.results.report import write_report
from pipeline.run.run import run
from pipeline.worker.options import ActorOptions
from pipeline.worker.restore import Restorer
from tests.pipeline.small_jobs import job, png, settings, write_parquet


def start(device: str = "cpu", **versions: str) -> dict:
    return {"started": "then", "device": device, "versions": versions}


def test_what_can_change_results_is_named_and_nothing_else() -> None:
    before = start(torch="2.12.0", ray="2.52.0", python="3.11.4", pillow="12.0.0")
    after = start("cuda", torch="2.13.0", ray="2.60.0", python="3.11.9", pillow="12.0.0")
    assert changes(before, after) == ["torch 2.12.0 -> 2.13.0", "device cpu -> cuda"]
    assert changes(before, start(torch="2.12.0", python="3.12.0", pillow="12.0.0")) == ["python 3.11 -> 3.12"]
    assert upgrades([before, before, after]) == ["then: torch 2.12.0 -> 2.13.0, device cpu -> cuda"]
    assert upgrades([]) == upgrades([entry("cpu"), entry("cpu")]) == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_resume_under_another_version_keeps_both_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = job(tmp_path / "in", tmp_path / "out")
    write_parquet(tmp_path / "in" / "a.parquet", {"a": png(1)})
    assert run(config).ok == 1
    stored = tmp_path / "out" / "run.json"
    stored.write_text(stored.read_text().replace(entry("cpu")["versions"]["torch"], "1.0.0"))
    write_parquet(tmp_path / "in" / "b.parquet", {"b": png(2)})
    capsys.readouterr()
    assert run(config).ok == 2
    assert "torch 1.0.0 -> " in capsys.readouterr().err
    starts = json.loads(stored.read_text())["starts"]
    assert [one["versions"]["torch"] == "1.0.0" for one in starts] == [True, False]
    (change,) = json.loads((tmp_path / "out" / "summary.json").read_text())["upgrades"]
    assert change == f"{starts[1]['started']}: torch 1.0.0 -> {starts[1]['versions']['torch']}"
    assert "torch 1.0.0" in Path(write_report(str(tmp_path / "out"))).read_text()
    rows = pq.read_table(tmp_path / "out" / "metrics.parquet", columns=["fingerprint"])
    assert rows["fingerprint"].to_pylist() == [config.fingerprint] * 2


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_a_run_goes_on_in_the_dtype_that_it_was_begun_in(tmp_path: Path, begun: str) -> None:
    earlier = load_config(settings(tmp_path / "in", tmp_path / "out"), [f"model.dtype={begun}"])
    run_json.begin(earlier, "cpu")
    later = job(tmp_path / "in", tmp_path / "out")
    assert later.model.dtype == "auto" and run_json.as_begun(later).fingerprint == earlier.fingerprint
    other = load_config(settings(tmp_path / "in", tmp_path / "out"), ["model.dtype=tf32"])
    assert run_json.as_begun(other) == other


def test_auto_is_the_dtype_of_the_first_worker_for_all_of_a_run(tmp_path: Path) -> None:
    config = job(tmp_path / "in", tmp_path / "out", model="tiny", method={"name": "ldps", "preset": "tiny"})
    assert run_json.settled_dtype(config.output, "float32", "cpu") == "float32", "without a run"
    run_json.begin(config, "cuda")
    assert run_json.settled_dtype(config.output, "bfloat16", "an A100") == "bfloat16"
    assert run_json.settled_dtype(config.output, "float32", "a V100") == "bfloat16"
    (said,) = run_json.begin(config, "cuda")
    assert "model.dtype auto: bfloat16, which the run was begun with on an A100" in said
    stored = json.loads((tmp_path / "out" / "run.json").read_text())
    assert stored["auto"] == {"dtype": "bfloat16", "device": "an A100"} and len(stored["starts"]) == 2
    run_json.refuse_other_settings(config)
    worker = Restorer(config, ActorOptions("cpu", 1, 1))
    (row,) = worker([InputRow("a", "shard", png(1))])
    assert worker.model is not None and worker.model.dtype == torch.bfloat16
    assert row["fingerprint"] == config.fingerprint
