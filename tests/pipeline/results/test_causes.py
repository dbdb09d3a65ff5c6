"""Rows are counted by the cause of their error, in the same way wherever that is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import load_config
from pipeline.output.folder import RUN, SUMMARY, OutputFolder
from pipeline.results import summary
from pipeline.results.causes import Cause, by_cause
from pipeline.results.report import write_report


def test_the_most_frequent_cause_comes_first_with_its_first_message_and_keys() -> None:
    messages = ["no image: null", "image too large: 9 x 9", None, "image too large: 1 x 7"]
    rows = pa.table({"key": list("abcde"), "error": [*messages, "image too large: 2: 3"]})
    assert by_cause(rows, "error", 2) == [
        Cause("image too large", 3, "image too large: 9 x 9", ("b", "d")),
        Cause("no image", 1, "no image: null", ("a",)),
        Cause("no message", 1, "no message", ("c",)),
    ]


def test_the_page_and_the_summary_tell_of_the_same_causes(
    write_run: Callable[..., str], ok_row: Any, error_row: Any
) -> None:
    failed = [error_row("a", "2 files: for one"), error_row("b", "3 files: for one"), error_row("c", "bad")]
    output = OutputFolder(write_run({"s": [ok_row("ok"), *failed]}))
    config = load_config(output.json(RUN)["config"])
    summary.write(config, ["s"], 4, 1.0, {}, [])
    told = {one["cause"]: one["count"] for one in output.json(SUMMARY)["errors"]}
    assert told == {"2 files": 1, "3 files": 1, "bad": 1}
    page = Path(write_report(output.url)).read_text()
    assert all(f'<span class="number">{count}</span> {name}<' in page for name, count in told.items())
