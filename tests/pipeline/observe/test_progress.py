"""What a run says of itself while it works."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.cluster.crew import Crew
from pipeline.observe.progress import Progress
from pipeline.output.folder import OutputFolder
from pipeline.output.progress_json import JOB_CONFIG, Start
from pipeline.worker.receipts import RECEIPT_SCHEMA


def receipts(*statuses: str, micro_batch: int = 4, checkpointing: bool = False) -> pa.Table:
    rows = [
        {
            "source_shard": "s",
            "key": "k",
            "status": status,
            "micro_batch": micro_batch,
            "checkpointing": checkpointing,
            "retries": [],
        }
        for status in statuses
    ]
    return pa.Table.from_pylist(rows, schema=RECEIPT_SCHEMA)


def told(folder: Path) -> dict:
    return json.loads((folder / "progress.json").read_text())


def wait_for(text: str, shown: io.StringIO) -> None:
    deadline = time.monotonic() + 120
    while text not in shown.getvalue():
        assert time.monotonic() < deadline, shown.getvalue()
        time.sleep(0.02)


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    with Progress(
        Start(OutputFolder(str(tmp_path))), 10, 4, micro_batch=4, interval=0.05
    ).shown() as progress:
        wait_for("restored 4 of 10 rows", shown)
        progress.committed(receipts("ok", "ok", "error"))
        wait_for("restored 7 of 10 rows", shown)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "restored 4 of 10 rows, no image yet, 0 errors"
    assert lines[-1].startswith("restored 7 of 10 rows, ") and lines[-1].endswith(" left, 1 errors")
    assert "images/s" in lines[-1]


def test_the_last_line_is_there_once_and_tells_of_no_worker_when_all_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    crew = Crew("tests.progress")
    crew.wanted = 1
    with Progress(
        Start(OutputFolder(str(tmp_path))), 2, 0, micro_batch=4, crew=crew, interval=0.05
    ).shown() as progress:
        progress.committed(receipts("ok"))
        assert progress.line().endswith("; 1 waiting for a machine")
        progress.committed(receipts("ok"))
        wait_for("restored 2 of 2", shown)  # the end of the block tells of it, too
    lines = [line for line in shown.getvalue().splitlines() if "restored 2 of 2" in line]
    assert len(lines) == 1 and lines[0].endswith(" 0 errors")


def test_a_smaller_micro_batch_is_told_of_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Progress(Start(OutputFolder(str(tmp_path))), 10, 0, micro_batch=4).shown() as progress:
        for size in (4, 2, 2):
            progress.committed(receipts("ok", micro_batch=size))
    lines = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert lines == ["going on with 2 images at a time: more take too much memory or are no faster"]


def test_activation_checkpointing_is_told_of_once_and_noted_in_the_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with (
        Start(OutputFolder(str(tmp_path))) as start,
        Progress(start, 10, 0, micro_batch=4).shown() as progress,
    ):
        progress.committed(receipts("ok"))
        assert told(tmp_path)["checkpointing"] is False
        for _ in range(2):
            progress.committed(receipts("ok", checkpointing=True))
    lines = [line for line in capsys.readouterr().err.splitlines() if "checkpointing" in line]
    assert lines == ["going on with activation checkpointing: some images take too much memory without it"]
    assert told(tmp_path)["checkpointing"] is True


def test_the_output_tells_how_far_the_run_is_while_it_works(tmp_path: Path) -> None:
    with (
        Start(OutputFolder(str(tmp_path))) as start,
        Progress(start, 10, 4, micro_batch=4, interval=0.05).shown() as progress,
    ):
        assert (told(tmp_path)["state"], told(tmp_path)["done"]) == ("running", 4)
        progress.committed(receipts("ok", "error"))
        deadline = time.monotonic() + 120
        while told(tmp_path)["done"] == 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        found = told(tmp_path)
        assert (found["rows"], found["done"], found["errors"]) == (10, 6, 1)
    assert told(tmp_path)["state"] == "complete"


@pytest.mark.parametrize(
    ("end", "state"),
    [(SystemExit(15), "stopped"), (KeyboardInterrupt(), "stopped"), (OSError("no room"), "failed")],
)
def test_a_start_that_ends_early_says_so_and_is_listed_by_the_next(
    end: BaseException, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}}))
    with (
        pytest.raises(type(end)),
        Start(OutputFolder(str(tmp_path))) as start,
        Progress(start, 10, 4, micro_batch=4).shown(),
    ):
        raise end
    first = told(tmp_path)
    assert (first["state"], first["done"], first["submission_id"]) == (state, 4, "raysubmit_1")
    assert first.get("message") == ("no room" if state == "failed" else None)
    monkeypatch.delenv(JOB_CONFIG)
    with Start(OutputFolder(str(tmp_path))):
        second = told(tmp_path)
    assert second["submission_id"] is None
    assert second["earlier"] == [{name: value for name, value in first.items() if name != "earlier"}]


def test_a_run_that_is_killed_while_it_stops_has_said_so(tmp_path: Path) -> None:
    start = Start(OutputFolder(str(tmp_path))).__enter__()
    start.stopping()
    assert told(tmp_path)["state"] == "stopped"
    start.update(10, 5, 0)  # it may go on for some seconds
    assert (told(tmp_path)["state"], told(tmp_path)["done"]) == ("stopped", 5)


def test_a_start_that_was_killed_is_marked_by_the_next(tmp_path: Path) -> None:
    Start(OutputFolder(str(tmp_path))).__enter__()  # and never ends
    with Start(OutputFolder(str(tmp_path))):
        assert [entry["state"] for entry in told(tmp_path)["earlier"]] == ["interrupted"]
