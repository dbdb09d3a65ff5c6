"""The caption block: its mistakes, all at once, and what it means to a run begun without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ConfigError, changed_settings, load_config, read_back

JOB: dict[str, Any] = {"input": "gs://bucket/in", "output": "gs://bucket/run", "model": "tiny", "size": 64}


def mistakes(**changed: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_config(JOB | changed)
    return list(refused.value.problems)


def test_captions_are_a_setting_of_the_result_only_where_there_are_some(captioner_folder: Path) -> None:
    without = load_config(JOB)
    assert not any("caption" in name for name in without.settings)
    captioned = load_config(JOB, [f"caption.model={captioner_folder}", "caption.from=measurement"])
    assert captioned.settings == without.settings | {
        "caption.model": str(captioner_folder),
        "caption.from": "measurement",
    }
    assert captioned.fingerprint != without.fingerprint
    assert changed_settings(without.settings, captioned)[0] == 'caption.from: (absent) -> "measurement"'


def test_what_run_json_holds_is_the_block_again(captioner_folder: Path) -> None:
    block = {"model": str(captioner_folder), "from": "measurement", "template": "{caption}, sharp"}
    config = load_config(JOB | {"caption": block})
    stored = json.loads(json.dumps(config.model_dump(mode="json")))
    assert stored["caption"] == block | {"revision": None}
    assert read_back(stored) == config == load_config(stored)


def test_the_template_is_filled() -> None:
    config = load_config(JOB | {"caption": {"from": "gs://bucket/earlier/"}})
    assert config.caption and config.caption.run == "gs://bucket/earlier"
    assert config.caption.prompt("red {caption}") == "A high quality photo of a red {caption}"


def test_mistakes_are_told_in_the_words_of_the_file(captioner_folder: Path) -> None:
    told = mistakes(caption={"form": 1, "from": 2, "model": str(captioner_folder), "template": "a photo"})
    assert told == [
        "caption.from: got 2; allowed: original, measurement, or the output of a run that had captions",
        "caption.template: got 'a photo'; allowed: a text with {caption} in it",
        "caption.form: unknown setting; allowed: model, revision, from, template; did you mean from?",
    ]
    assert mistakes(caption={"from": "measurment", "model": str(captioner_folder)}) == [
        "caption.from: got 'measurment'; allowed: original, measurement, or ./measurment for the output of a "
        "run; did you mean measurement?"
    ]
    assert mistakes(caption={}) == [
        "caption.model: is missing; allowed: tiny-captioner, or a hub id, a folder or a URL of a "
        "transformers image-to-text model"
    ]


def test_what_is_no_captioner_is_refused_with_the_job(pixel_folder: Path) -> None:
    (problem,) = mistakes(caption={"model": str(pixel_folder)})
    assert problem.startswith(
        f"caption.model folder '{pixel_folder}': its network is of type None, allowed: "
    )
    for name in ("no-such-folder", "tiny"):
        (problem,) = mistakes(caption={"model": name})
        assert problem.startswith(
            f"caption.model: got '{name}', allowed are 'tiny-captioner', a hub id (owner"
        )
    (problem,) = mistakes(model="tiny-captioner")
    assert problem.startswith("model: got 'tiny-captioner', allowed are 'tiny', 'tiny-pixel', a hub id")
    (problem,) = mistakes(caption={"from": "gs://bucket/earlier", "model": "owner/name"})
    assert problem.startswith("caption.model: got 'owner/name' beside the captions of gs://bucket/earlier")
    (problem,) = mistakes(caption={"model": "gs://b/m?X-Goog-Signature=abc"})
    assert problem.startswith("caption.model: a URL with a password or signature in it")


def test_captions_that_nothing_would_read_are_refused(captioner_folder: Path) -> None:
    block = {"model": str(captioner_folder)}
    told = mistakes(caption=block, prompt="a cat", mode="restore", method="adjoint")
    assert [problem.split(";")[0] for problem in told] == [
        "caption: got one for adjoint, which reads no text",
        "prompt: got 'a cat' beside caption",
        "caption.from: got original in mode restore, which has none",
    ]
    assert mistakes(caption=block, prompt_embeddings="gs://bucket/tuned") == [
        "prompt_embeddings: got them beside caption; allowed: one of them"
    ]
    (problem,) = mistakes(caption={"from": JOB["output"]})
    assert problem.startswith("caption.from: got the output of this job")
