"""A run stops at its budget with what it committed, says so, and goes on with a higher one."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.console import Exit
from jobs.restore import restore
from pipeline.config import ConfigError
from pipeline.output import usage_json
from pipeline.output.folder import PROGRESS, SUMMARY, OutputFolder
from pipeline.output.usage_json import StartUsage, Usage
from pipeline.run import budget
from pipeline.run.run import LimitError, run
from pipeline.run.stop import Stop
from tests.pipeline.small_jobs import job, settings, write_shards

HOUR = 3600.0


def spend(output: Path, dollars: float) -> None:
    """An earlier start that cost so much."""
    output.mkdir(exist_ok=True)
    start = {
        "started": "then",
        "rows": 1,
        "workers": 1,
        "worker_seconds": HOUR,
        "usd_per_worker_hour": dollars,
    }
    (output / "usage.json").write_text(json.dumps([start]))


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_stops_at_its_budget_and_goes_on_with_a_higher_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "CHECK_SECONDS", 0.1)
    monkeypatch.delattr("pipeline.input.sources.left_out_of")  # which reads all input again, after the scan
    slow = {"name": "linear", "function": "tests.pipeline.small_jobs:slow_identity"}
    output = tmp_path / "out"
    folder = OutputFolder(str(output))
    inputs = write_shards(tmp_path / "in", "a", rows=60)
    config = job(inputs, output, operator=slow, price=3600, budget=1)  # a worker's second is a dollar
    with pytest.raises(LimitError, match="stopped at the budget: .* of 1 USD are spent.*higher budget"):
        run(config)
    summary = folder.json(SUMMARY)
    assert not summary["complete"] and summary["stopped"].startswith("stopped at the budget")
    progress = folder.json(PROGRESS)
    assert progress["state"] == "stopped" and progress["message"] == summary["stopped"]
    (start,) = usage_json.read(folder)
    assert 0 < start.rows < 60 and usage_json.dollars([start], None) >= 1  # type: ignore[operator]
    assert not (output / "lease.json").exists()

    with pytest.raises(LimitError):
        run(config)
    assert len(usage_json.read(folder)) == 1, "it began although nothing was left to spend"

    summed = run(job(inputs, output, operator=slow, price=3600, budget=1000, commit_every=60))
    assert summed.ok == 60
    first, second = usage_json.read(folder)
    assert 0 < second.rows <= 60 - first.rows, "a committed row was restored again"
    assert folder.json(SUMMARY)["stopped"] is None


def test_a_run_whose_usage_cannot_be_written_tells_of_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neither of none, nor of those of the start before it."""

    def spent(*arguments: Any) -> None:
        held = arguments[5]
        held.rows = 3
        held.stop.at_budget("stopped at the budget")
        time.sleep(60)

    monkeypatch.setattr("pipeline.run.run._restore", spent)
    write_shards(tmp_path / "in", "a", rows=5)
    for _ in range(2):
        with pytest.raises(LimitError, match="stopped at the budget"):
            run(job(tmp_path / "in", tmp_path / "out"))
        summary = OutputFolder(str(tmp_path / "out")).json(SUMMARY)
        assert (summary["this_start"]["rows"], summary["stopped"]) == (3, "stopped at the budget")
        spend(tmp_path / "out", 1.0)


def test_a_budget_spent_after_sigterm_is_the_reason_and_leaves_no_more_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same command would not go on; but a lease that was lost is told of, whatever was spent."""
    monkeypatch.setattr("pipeline.run.stop.GRACE_SECONDS", 60.0)
    with Stop() as stop:
        for receipts in stop.gracefully([pa.table({"actor": ["a"]})], set):
            assert receipts.num_rows
            signal.raise_signal(signal.SIGTERM)
            monkeypatch.setattr("pipeline.run.stop.GRACE_SECONDS", 6000.0)
            stop.at_budget("spent")
            assert (stop.reason, stop.over_budget) == ("spent", True)
            assert signal.getitimer(signal.ITIMER_REAL)[0] <= 60.0
            with pytest.raises(KeyboardInterrupt, match="lost"):
                stop.now("lost")
                time.sleep(60)
            stop.at_budget("spent")
            assert (stop.reason, stop.over_budget) == ("lost", False)
            break


def test_sigterm_waits_for_actors_that_have_not_committed_yet() -> None:
    commits = [pa.table({"actor": [name]}) for name in "abcb"]
    with Stop() as stop, pytest.raises(KeyboardInterrupt):
        seen: list[str] = []
        for receipts in stop.gracefully(commits, lambda: {"a", "b", "c"}):
            seen += receipts.column("actor").to_pylist()
            if stop.reason is None:
                signal.raise_signal(signal.SIGTERM)
    assert seen == ["a", "b", "c"]


def test_the_command_says_so_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path / "in", "a", rows=1)
    spend(tmp_path / "out", 2.0)
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps(settings(tmp_path / "in", tmp_path / "out", price=1, budget=1.5)))
    with pytest.raises(Exception) as ended:
        restore(str(config))
    assert getattr(ended.value, "exit_code", None) == Exit.LIMIT_REACHED == 4
    assert "2 of 1.5 USD are spent" in capsys.readouterr().err


def test_a_budget_needs_a_price(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^budget: got 5 without a price; allowed: with `price`"):
        job(tmp_path, tmp_path / "out", budget=5)


def test_gpus_count_whether_they_work_or_not(tmp_path: Path) -> None:
    counted = Usage(OutputFolder(str(tmp_path)), price=2.0)
    counted.had(4, HOUR / 2)
    assert counted.dollars == 4.0
    counted.write()
    (start,) = usage_json.read(OutputFolder(str(tmp_path)))
    assert (start.worker_seconds, start.gpu_seconds) == (0.0, 2 * HOUR)
    assert StartUsage("", 0, 1, 3 * HOUR, None, 2 * HOUR).paid_seconds == 3 * HOUR


def test_what_gpus_cost_is_written_without_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next start knew nothing of a driver that was killed while it made captions."""
    monkeypatch.setattr(usage_json, "SECONDS_BETWEEN_WRITES", 0.0)
    Usage(OutputFolder(str(tmp_path)), price=2.0).had(32, 2 * HOUR)
    assert usage_json.dollars(usage_json.read(OutputFolder(str(tmp_path))), None) == 128.0


@pytest.mark.parametrize("graceful", [False, True])
def test_idle_gpus_reach_the_budget_without_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graceful: bool
) -> None:
    """While receipts are awaited it ends after the time that actors have to commit, else at once."""
    monkeypatch.setattr(budget, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr("pipeline.run.stop.GRACE_SECONDS", 0.1)

    def receipts() -> Any:
        time.sleep(60)
        yield

    with Stop() as stop, pytest.raises(KeyboardInterrupt):  # noqa: SIM117  in the order of a run
        with budget.kept(Usage(OutputFolder(str(tmp_path)), HOUR), 0.1, stop, lambda: 1.0):
            for _ in stop.gracefully(receipts(), set) if graceful else receipts():
                pass
    assert stop.over_budget and stop.reason is not None
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
