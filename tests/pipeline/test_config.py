"""Job files: defaults, overrides, every mistake at once, and which settings make another run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import ConfigError, changed_settings, load_config
from pipeline.prices import load_prices

MINIMAL = {"input": "gs://bucket/shards/*.parquet", "output": "gs://bucket/run"}


def problems(source: dict, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_config(source, overrides)
    return refused.value.problems


def test_every_setting_has_a_default_and_the_resolved_whole_is_a_job_again() -> None:
    config = load_config(MINIMAL)
    assert config.model.id == "CompVis/stable-diffusion-v1-4" and config.size == (512, 512)
    assert config.operator == {"name": "super_resolution", "factor": 8}
    assert config.method["name"] == "p2l" and config.method["projection"]["every"] == 4
    assert load_config(config.model_dump(mode="json")) == config


def test_a_file_is_read_and_overrides_are_yaml(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("input: shards\noutput: out\nmethod: {name: ldps}\nmodel: tiny\n")
    config = load_config(
        "file://" + str(path),
        [
            "method.steps=50",
            "model=a/b",
            "model.dtype=float16",
            "input=[x, y]",
            "method.guidance.step_size=1e-1",
        ],
    )
    assert config.method["steps"] == 50 and config.method["guidance"]["step_size"] == 0.1
    assert (config.model.id, config.model.dtype) == ("a/b", "float16")
    assert config.input == (str(Path("x").absolute()), str(Path("y").absolute()))


def test_a_block_without_a_name_changes_the_default_one() -> None:
    config = load_config(MINIMAL, ["method.steps=50", "operator.factor=4"])
    assert config.method["preset"] == "imagenet" and config.method["steps"] == 50
    assert config.operator == {"name": "super_resolution", "factor": 4}
    assert load_config(MINIMAL, ["method.name=adjoint"]).method == {"name": "adjoint"}


def test_all_mistakes_are_named_at_once_with_what_was_got_and_is_allowed() -> None:
    wrong = {
        "input": [],
        "operater": {},
        "mode": "mesure",
        "size": -3,
        "noise": -1,
        "workers": [4, 1],
        "batch_size": 0,
        "seed": 1.5,
        "model": {"id": "tiny!", "dtype": "float8", "devise": "cpu"},
        "operator": {"name": "super_resolution", "facter": 4},
        "method": {"name": "p2l", "steps": 0, "stepz": 1},
    }
    found = problems(wrong, "noise")
    text = "\n".join(found)
    for expected in (
        "override 'noise': allowed is setting=value",
        "input: got",
        "output: is missing; allowed: a folder or its URL",
        "operater: unknown setting",
        "did you mean operator?",
        "mode: got 'mesure'; allowed: measure, restore",
        "size: got -3; allowed: a side in pixels, [height, width], or null",
        "noise: got -1; allowed: a standard deviation",
        "workers: got [4, 1]; allowed: auto, n, or [min, max], from 1",
        "batch_size: got 0; allowed: auto, or a whole number from 1",
        "seed: got 1.5; allowed: a whole number",
        "model.dtype: got 'float8'; allowed: float32, float64, float16, bfloat16",
        "model.devise: unknown setting",
        "model: got 'tiny!'",
        "method.steps: got 0",
        "method.stepz: unknown setting",
        "operator.facter: no setting of super_resolution",
    ):
        assert expected in text, f"{expected!r} not in:\n{text}"
    assert len(found) == len(set(found))


def test_a_price_is_a_number_or_that_of_a_machine_type() -> None:
    assert load_config(MINIMAL).price is None
    assert load_config(MINIMAL, ["price=3.67"]).price == 3.67
    spot = load_config(MINIMAL, ["price=a2-highgpu-1g-spot"])
    assert spot.price == load_prices().machines["a2-highgpu-1g"].spot
    assert load_config(spot.model_dump(mode="json")) == spot
    (problem,) = problems(MINIMAL | {"price": "a2-highgpu"})
    assert "price: got 'a2-highgpu'; allowed: USD a worker-hour, a machine type" in problem


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"method": {"name": "p2l", "stepz": 1}}, "method.stepz: unknown setting"),
        ({"method": {"name": "p3l"}}, "method.name: got 'p3l'; allowed: p2l"),
        ({"model": "no such thing"}, "model: got 'no such thing'"),
        ({"operator": "blurr"}, "operator.name: got 'blurr'"),
        ({"operator": "denoising"}, "method.preset: imagenet has no column for the operator 'denoising'"),
        (
            {"mode": "restore", "operator": "motion_blur"},
            "operator: got motion_blur with drawn masks or kernels",
        ),
        (
            {"mode": "restore", "operator": "inpainting"},
            "operator: got inpainting with drawn masks or kernels",
        ),
    ],
)
def test_blocks_and_models_are_checked_by_their_owners(changed: dict, expected: str) -> None:
    assert any(expected in problem for problem in problems(MINIMAL | changed)), problems(MINIMAL | changed)


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    for name, expected in (
        ("none", "there is no such file"),
        ("list", "got list"),
        ("broken", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=expected):
            load_config(str(tmp_path / f"{name}.yaml"))


def test_the_fingerprint_is_of_settings_that_change_results_only() -> None:
    base = load_config(MINIMAL)
    for same in (
        "input=elsewhere",
        "output=there",
        "workers=4",
        "batch_size=2",
        "model.device=cpu",
        "keep=[]",
        "price=3.67",
        "budget=500",
    ):
        assert load_config(MINIMAL, [same]).fingerprint == base.fingerprint
    for other in ("noise=0", "method.steps=10", "seed=1", "size=256", "prompt=a cat", "model.dtype=float16"):
        assert load_config(MINIMAL, [other]).fingerprint != base.fingerprint
    explicit = load_config(MINIMAL, ["method.name=p2l", "method.preset=imagenet", "operator.factor=8"])
    assert explicit.fingerprint == base.fingerprint


def test_changes_are_named_with_both_values() -> None:
    stored = load_config(MINIMAL).settings
    now = load_config(MINIMAL, ["method.steps=50", "size=null"])
    assert changed_settings(stored, now) == ["method.steps: 1000 -> 50", "size: [512, 512] -> null"]
