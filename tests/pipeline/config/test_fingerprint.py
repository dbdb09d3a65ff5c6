"""The same settings are the same run, whichever version began it, and run.json is a job again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import load_config, read_back

PLACES = {"input": "gs://bucket/in/*.parquet", "output": "gs://bucket/run"}
# As they were when runs were begun with them: these never change, but for a preset whose numbers do.
BEGUN = json.loads(Path(__file__).with_name("fingerprints.json").read_text())


@pytest.mark.parametrize("begun", BEGUN, ids=[begun["fingerprint"] for begun in BEGUN])
def test_a_run_that_was_begun_before_is_the_same_run(begun: dict) -> None:
    config = load_config(PLACES | begun["job"])
    assert config.settings == begun["settings"]
    assert config.fingerprint == begun["fingerprint"]


@pytest.mark.parametrize("begun", BEGUN, ids=[begun["fingerprint"] for begun in BEGUN])
def test_what_run_json_holds_is_the_job_again(begun: dict) -> None:
    config = load_config(PLACES | begun["job"])
    stored = json.loads(json.dumps(config.model_dump(mode="json")))
    assert read_back(stored) == config
    assert load_config(stored) == config
