"""The same settings are the same run, whichever version began it, and run.json is a job again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2l_engine.priors.fetch import CAPTIONER, training_of
from pipeline.config import changed_settings, fingerprint, load_config, read_back

TRAINED = "model.trained_steps"
PLACES = {"input": "gs://bucket/in/*.parquet", "output": "gs://bucket/run"}
# As they were when runs were begun with them, but for the steps that a shipped model was trained: these never
# change, but for a preset whose numbers do.
BEGUN = json.loads(Path(__file__).with_name("fingerprints.json").read_text())


@pytest.mark.parametrize("begun", BEGUN, ids=[begun["fingerprint"] for begun in BEGUN])
def test_a_run_that_was_begun_before_is_the_same_run(begun: dict) -> None:
    config = load_config(PLACES | begun["job"])
    settings = {name: value for name, value in config.settings.items() if name != TRAINED}
    assert settings == begun["settings"]
    assert fingerprint.of(settings) == begun["fingerprint"]


@pytest.mark.parametrize(
    ("model", "method", "told"),
    [("tiny", "p2l", True), ("tiny-pixel", "dds", True), ("tiny", "adjoint", False), ("a/b", "p2l", False)],
)
def test_a_shipped_model_is_told_by_its_training_where_the_method_asks_it(
    model: str, method: str, told: bool
) -> None:
    settings = load_config(PLACES | {"model": model, "method": method, "size": 64}).settings
    assert settings.get(TRAINED) == (training_of(model) if told else None)


@pytest.mark.parametrize(
    ("block", "told"), [({"model": CAPTIONER}, True), ({"from": "gs://bucket/a"}, False)]
)
def test_a_shipped_captioner_is_told_by_its_training(block: dict, told: bool) -> None:
    settings = load_config(PLACES | {"model": "tiny", "size": 64, "caption": block}).settings
    assert settings.get("caption.trained_steps") == (training_of(CAPTIONER) if told else None)


def test_a_run_with_a_shipped_model_is_not_gone_on_with_when_that_was_trained_further() -> None:
    config = load_config(PLACES | {"model": "tiny"})
    stored = config.settings | {TRAINED: 1}
    assert changed_settings(stored, config) == [f"{TRAINED}: 1 -> {training_of('tiny')}"]


@pytest.mark.parametrize("setting", [{"device": "cpu"}, {"compile": True}], ids=str)
def test_where_and_how_networks_run_is_another_matter(setting: dict) -> None:
    one, other = ({"model": {"id": "tiny"} | more} for more in ({}, setting))
    assert load_config(PLACES | one).fingerprint == load_config(PLACES | other).fingerprint


@pytest.mark.parametrize("begun", BEGUN, ids=[begun["fingerprint"] for begun in BEGUN])
def test_what_run_json_holds_is_the_job_again(begun: dict) -> None:
    config = load_config(PLACES | begun["job"])
    stored = json.loads(json.dumps(config.model_dump(mode="json")))
    assert read_back(stored) == config
    assert load_config(stored) == config


@pytest.mark.parametrize(
    "block",
    [{"finish": None}, {"projection": {"fresh_noise": 0.0}}, {"preset": "tiny_psnr", "samples": 1}],
    ids=str,
)
def test_a_default_that_a_preset_is_overruled_with_is_kept(block: dict) -> None:
    """A dump leaves defaults of later settings out, for which a preset's would be taken."""
    config = load_config(PLACES | {"model": "tiny", "method": {"name": "p2l", "preset": "tiny"} | block})
    stored = json.loads(json.dumps(config.model_dump(mode="json")))
    assert read_back(stored) == load_config(stored) == config
    plain = load_config(PLACES | {"model": "tiny", "method": {"preset": stored["method"]["preset"]}})
    assert config.fingerprint != plain.fingerprint
