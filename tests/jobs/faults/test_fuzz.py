"""Damaged files: each ends as `ok` and `error` rows or in a refusal, none ends the process.

`make fuzz` tries two thousand.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobs.faults import fuzz, mutations

MUTATIONS = 300
MOST_MEMORY = 3 * 2**30  # bytes


def test_damaged_files_become_rows_or_refusals() -> None:
    outcomes = fuzz.run(MUTATIONS, seed=0)
    assert [outcome.number for outcome in outcomes] == list(range(MUTATIONS))
    failures = [
        f"{outcome.kind} {outcome.number}: {outcome.failure}" for outcome in outcomes if outcome.failure
    ]
    assert not failures, "\n".join(failures)
    assert max(outcome.peak for outcome in outcomes) < MOST_MEMORY
    for kind in mutations.KINDS:
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        assert any(outcome.ok for outcome in of_kind), f"{kind}: damage that nothing survives tests little"
        assert any(outcome.errors for outcome in of_kind)
        assert kind in ("parquet", "tar") or not any(outcome.refused for outcome in of_kind)


def test_a_file_that_ends_the_process_or_takes_for_ever_is_a_failure_and_the_next_ones_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 2.0)
    monkeypatch.setattr(fuzz, "work", _dies_of_the_second_and_hangs_on_the_fourth)
    outcomes = fuzz.run(6, seed=0)
    assert [outcome.failure for outcome in outcomes] == [
        None,
        f"the process ended with status {-signal.SIGSEGV}",
        None,
        "not done after 2 s",
        None,
        None,
    ]
    assert "| all | 6 |" in fuzz.table(outcomes)


def _dies_of_the_second_and_hangs_on_the_fourth(seed: int, numbers: range, sender: object) -> None:
    sender.send("ready")  # type: ignore[attr-defined]
    for number in numbers:
        if number == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 3:
            signal.pause()
        sender.send(fuzz.Outcome(number, "png"))  # type: ignore[attr-defined]


def test_failures_are_kept_to_look_at(tmp_path: Path) -> None:
    failed = fuzz.Outcome(5, mutations.damaged(0, 5)[0], failure="why")
    (path,) = fuzz.save([fuzz.Outcome(4, "parquet"), failed], 0, tmp_path / "failures")
    assert path.name == "0-5.gif" and path.read_bytes() == mutations.damaged(0, 5)[1]
