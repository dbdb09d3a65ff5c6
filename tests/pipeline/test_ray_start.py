"""Ray starts where its own choices would fail, and its errors say what helps."""

from __future__ import annotations

import tempfile

import pytest

from pipeline import ray_start


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("/tmp", None), ("/" + "x" * 38, None), ("/" + "x" * 39, ray_start.SHORT_FOLDER)],
)
def test_a_temporary_folder_too_long_for_sockets_is_replaced(
    monkeypatch: pytest.MonkeyPatch, folder: str, expected: str | None
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    assert ray_start._folder() == expected
    monkeypatch.setenv("RAY_TMPDIR", "/short")
    assert ray_start._folder() is None


def test_a_cluster_that_turns_a_driver_away_may_want_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_start._hint() == ""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert "RAY_AUTH_MODE=token" in ray_start._hint()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert ray_start._hint() == ""
