"""A store that is out of reach is no mistake of the job's: the same command may pass a minute later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline import feasible
from pipeline.config import ConfigError, JobConfig, load_config
from pipeline.run import captioning
from pipeline.stores import retries, storage
from pipeline.worker import stored_prompts

JOB: dict[str, Any] = {"input": "gs://bucket/in", "output": "gs://bucket/out", "model": "tiny", "size": 64}


def away(*arguments: object, **settings: object) -> None:
    raise storage.StorageError("gs://bucket: cannot be read") from ConnectionResetError()


@pytest.mark.parametrize(
    ("check", "settings"),
    [
        (captioning.check, {"caption": {"from": "gs://bucket/captioned"}}),
        (stored_prompts.check, {"prompt_embeddings": "gs://bucket/tuned"}),
    ],
)
def test_earlier_runs_that_cannot_be_read_now_are_no_mistake(
    check: Callable[[JobConfig], None], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "exists", away)
    with pytest.raises(storage.StorageError):
        check(load_config(JOB | settings))


def test_a_model_that_cannot_be_read_now_ends_the_command_as_one_to_give_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    monkeypatch.setattr(feasible, "read_architecture", away)
    file = tmp_path / "job.yaml"
    file.write_text("{input: in, output: out, model: memory://bucket/model, method: p2l}")
    shown = CliRunner().invoke(app, ["restore", str(file)])
    assert shown.exit_code == 1, shown.output
    assert "gs://bucket: cannot be read" in shown.output


def test_a_client_without_credentials_is_told_of_as_the_model_s_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class DefaultCredentialsError(Exception):
        """As google.auth's, which is no OSError."""

    def refused(*arguments: object) -> None:
        raise DefaultCredentialsError("Your default credentials\nwere not found.")

    monkeypatch.setattr(feasible, "read_architecture", refused)
    with pytest.raises(ConfigError, match="which cannot be read .*: Your default credentials were not found"):
        load_config({"input": "in", "output": "out", "model": "memory://bucket/model", "method": "p2l"})
