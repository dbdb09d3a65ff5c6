"""Ray starts where its own choices would fail, and its errors say what helps."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from p2l_first import own_packages
from pipeline.cluster import ray_start


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("/tmp", None), ("/" + "x" * 38, None), ("/" + "x" * 39, ray_start.SHORT_FOLDER)],
)
def test_a_temporary_folder_too_long_for_sockets_is_replaced(
    monkeypatch: pytest.MonkeyPatch, folder: str, expected: str | None
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    assert ray_start.temporary_folder() == expected
    monkeypatch.setenv("RAY_TMPDIR", "/short")
    assert ray_start.temporary_folder() is None


def test_a_cluster_that_turns_a_driver_away_may_want_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_start.advice() == ""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert "RAY_AUTH_MODE=token" in ray_start.advice()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert ray_start.advice() == ""


def test_workers_are_told_whose_pipeline_is_meant_only_where_there_is_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ray_start.workers_environment() is None
    (tmp_path / "pipeline.py").touch()
    assert ray_start.workers_environment() == {"worker_process_setup_hook": own_packages}
