"""What a run says of itself while it works."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest

from pipeline.progress import Progress
from pipeline.restore import RECEIPT_SCHEMA


def receipts(*statuses: str, micro_batch: int = 4) -> pa.Table:
    rows = [
        {"source_shard": "s", "key": "k", "status": status, "micro_batch": micro_batch, "retries": []}
        for status in statuses
    ]
    return pa.Table.from_pylist(rows, schema=RECEIPT_SCHEMA)


def test_without_a_terminal_there_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, 4, micro_batch=4, interval=0.05) as progress:
        time.sleep(0.08)
        progress.committed(receipts("ok", "ok", "error"))
        time.sleep(0.08)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "restored 4 of 10 rows, no image yet, 0 errors"
    assert lines[-1].startswith("restored 7 of 10 rows, ") and lines[-1].endswith(" left, 1 errors")
    assert "images/s" in lines[-1]


def test_a_smaller_micro_batch_is_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, 0, micro_batch=4) as progress:
        for size in (4, 2, 2):
            progress.committed(receipts("ok", micro_batch=size))
    told = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert told == ["memory ran out: going on with 2 images at a time"]
