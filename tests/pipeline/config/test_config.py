"""Job files: defaults, overrides, every mistake at once, and which settings make another run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save_file

import p2l_engine
from p2l_engine import methods
from p2l_engine.operators.pooling import SuperResolution
from p2l_engine.presets import OF_SHIPPED, PRESETS
from p2l_engine.priors import layout
from pipeline.config import ConfigError, changed_settings, load_config
from pipeline.feasible import warnings
from pipeline.prices import load_prices

TINY = Path(p2l_engine.__file__).parent / "tiny" / "weights"
MINIMAL = {"input": "gs://bucket/shards/*.parquet", "output": "gs://bucket/run"}


def problems(source: str | dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_config(source, overrides)
    return refused.value.problems


def test_every_setting_has_a_default_and_the_resolved_whole_is_a_job_again() -> None:
    config = load_config(MINIMAL)
    assert config.model.id == "CompVis/stable-diffusion-v1-4" and config.size == (512, 512)
    assert config.operator == SuperResolution(factor=8)
    assert config.method == methods.build("p2l", "imagenet", "super_resolution")
    assert load_config(config.model_dump(mode="json")) == config


def test_a_file_is_read_and_overrides_are_yaml(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("input: shards\noutput: out\nmethod: {name: ldps}\nmodel: tiny\n")
    config = load_config(
        "file://" + str(path),
        [
            "method.steps=50",
            "model=a/b",
            "size=64",
            "model.dtype=float16",
            "input=[x, y]",
            "method.guidance.step_size=1e-1",
        ],
    )
    assert config.method == methods.build("ldps", steps=50, guidance={"step_size": 0.1})
    assert (config.model.id, config.model.dtype) == ("a/b", "float16")
    assert config.input == (str(Path("x").absolute()), str(Path("y").absolute()))


def test_a_block_without_a_name_changes_the_default_one() -> None:
    config = load_config(MINIMAL, ["method.steps=50", "operator.factor=4"])
    assert config.method == methods.build("p2l", "imagenet", "super_resolution", steps=50)
    assert config.operator == SuperResolution(factor=4)
    assert load_config(MINIMAL, ["method.name=adjoint"]).method == methods.build("adjoint")


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
        "size: got -3; allowed: auto (the model's own side), a side in pixels, [height, width], or null",
        "noise: got -1; allowed: a standard deviation",
        "workers: got [4, 1]; allowed: auto, n, or [min, max], from 1",
        "batch_size: got 0; allowed: auto, or a whole number from 1",
        "seed: got 1.5; allowed: a whole number",
        "model.dtype: got 'float8'; allowed: auto, float32, tf32, float64, float16, bfloat16",
        "model.devise: unknown setting",
        "model: got 'tiny!'",
        "method.steps: got 0",
        "method.stepz: unknown setting",
        "operator.facter: no setting of super_resolution",
    ):
        assert expected in text, f"{expected!r} not in:\n{text}"
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    "override",
    ["noise=yes", "price=true", "method.steps=on", "method.projection.weight=true", "operator.factor=yes"],
)
def test_true_is_no_number(override: str) -> None:
    name = override.partition("=")[0]
    (problem,) = problems(dict(MINIMAL), override)
    assert problem.startswith(f"{name}: got True; allowed: ")


@pytest.mark.parametrize("block", [{"name": ["p2l"]}, {"preset": ["tiny"]}, {"name": {"p2l": 1}}])
def test_a_list_is_no_name(block: dict) -> None:
    (problem,) = problems({**MINIMAL, "method": block})
    assert problem.startswith(f"method.{next(iter(block))}: got ") and "allowed: " in problem


def test_a_model_on_this_machine_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TINY, tmp_path / "own" / "model")
    monkeypatch.chdir(tmp_path)
    found = {load_config({**MINIMAL, "model": name}).model.id for name in ("own/model", "./own/model/")}
    assert found == {str(tmp_path / "own" / "model")}
    assert load_config({**MINIMAL, "model": "tiny"}).model.id == "tiny"


def test_an_empty_input_is_not_the_folder_one_stands_in() -> None:
    assert problems({**MINIMAL, "input": ""}) == [
        "input: got ''; allowed: a URL, a glob, a folder, or a list of them"
    ]


def test_a_setting_that_stands_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "input: in\noutput: out\nnoise: 0.5\nmodel: tiny\nnoise: 0.0\n"
        "method:\n  name: ldps\n  steps: 5\n  'steps': 6\nkeep: [{a: 1, a: 2}]\n"
    )
    (problem,) = problems(str(path))
    for expected in (
        "noise stands twice, in lines 3 and 5",
        "steps stands twice, in lines 8 and 9",
        "a stands twice, in lines 10 and 10",
    ):
        assert expected in problem
    (problem,) = problems(MINIMAL, "method={steps: 5, steps: 6}")
    assert "steps stands twice" in problem


def test_what_yaml_merges_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "input: in\noutput: out\nmodel: tiny\nstorage: {}\n"
        "operator: &mine {name: super_resolution, factor: 8}\n"
    )
    assert load_config(str(path), ["operator.factor=4", "operator.factor=2"]).operator == SuperResolution(
        factor=2
    )
    path.write_text(
        "input: in\noutput: out\nmodel: &small {id: tiny, dtype: float64}\n"
        "storage: {s3: &a {anon: true, use_ssl: true}, gs: {<<: *a, anon: false}}\n"
    )
    config = load_config(str(path))
    assert config.storage["gs"] == {"anon": False, "use_ssl": True} and config.model.dtype == "float64"


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
        (
            {"model": {"id": "tiny", "lora": "no.safetensors"}},
            "model.lora: got 'no.safetensors', but there is",
        ),
        ({"model": {"lora": "https://me:secret@host/a.safetensors"}}, "model.lora: a URL with a password"),
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
    ):
        assert load_config(MINIMAL, [same]).fingerprint == base.fingerprint
    assert load_config(MINIMAL, ["price=3.67", "budget=500"]).fingerprint == base.fingerprint
    for other in ("noise=0", "method.steps=10", "seed=1", "size=256", "prompt=a cat", "model.dtype=float16"):
        assert load_config(MINIMAL, [other]).fingerprint != base.fingerprint
    assert "model.lora" not in base.settings
    adapted = load_config(MINIMAL, ["model.lora=latent-consistency/lcm-lora-sdv1-5"])
    assert adapted.settings == base.settings | {"model.lora": "latent-consistency/lcm-lora-sdv1-5"}
    assert adapted.fingerprint != base.fingerprint
    explicit = load_config(MINIMAL, ["method.name=p2l", "method.preset=imagenet", "operator.factor=8"])
    assert explicit.fingerprint == base.fingerprint


def test_a_size_that_is_not_given_is_the_models_own_side() -> None:
    for model, side in (("tiny", 64), ("CompVis/stable-diffusion-v1-4", 512), (str(TINY), 64)):
        config, explicit = (load_config(MINIMAL | {"model": model} | size) for size in ({}, {"size": side}))
        assert config.size == (side, side)
        assert explicit.fingerprint == config.fingerprint and explicit.settings["size"] == [side, side]


def test_the_own_side_of_a_model_in_a_store_is_read_from_its_small_files_alone() -> None:
    unet = json.loads((TINY / "unet" / "config.json").read_text()) | {"sample_size": 8}
    store = fsspec.filesystem("memory")
    for name in layout.LATENT.configs:
        store.pipe(f"/models/small/{name}", (TINY / name).read_bytes())
    store.pipe("/models/small/unet/config.json", json.dumps(unet).encode())
    assert load_config(MINIMAL | {"model": "memory://models/small"}).size == (32, 32)
    (problem,) = problems(MINIMAL | {"model": "memory://models/none"})
    assert "size: got auto, the model's own side, which cannot be read" in problem
    assert "vae/config.json is missing" in problem


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"operator": {"factor": 3}}, "allowed: multiples of the factor 3"),
        ({"operator": {"name": "gaussian_blur", "size": 129}}, "allowed: at least (65, 65)"),
        (
            {"operator": {"name": "motion_blur", "size": 65, "padding": "circular"}},
            "allowed: at least (65, 65)",
        ),
        ({"operator": {"name": "inpainting"}, "size": 2}, "one with enough pixels"),
        (
            {"operator": {"name": "inpainting", "mask": "random", "fraction": 0.8}, "size": 1},
            "no pixel of 1x1 is observed",
        ),
        ({"operator": {"name": "linear", "function": "torch:ones_like"}}, "operator.linear: A(0) reached 1"),
        ({"method": {"steps": 1001}}, "method.steps: got 1001; allowed: 1 to 1000"),
        (
            {"method": {"steps": 9, "warm_start": {"at": 0.008}}},
            "method.steps: got 9; allowed: 1 to 8,",
        ),
    ],
)
def test_what_cannot_run_at_the_size_or_in_the_steps_is_refused(changed: dict, expected: str) -> None:
    job = MINIMAL | {"model": "tiny", "method": {"name": "ldps", "preset": None}}
    found = problems(job | {"noise": -1} | changed)
    assert any(expected in problem for problem in found), found
    assert any("noise: got -1" in problem for problem in found), "all mistakes are named at once"


def test_a_method_is_refused_where_the_model_is_of_the_other_kind(pixel_folder: Path) -> None:
    (problem,) = problems(MINIMAL | {"model": "tiny", "method": {"name": "dds", "preset": None}})
    assert problem.startswith(
        "method.name: got dds, which needs a pixel model, for a latent one; allowed: p2l"
    )
    (problem,) = problems(
        MINIMAL | {"method": {"name": "dds", "preset": None}}
    )  # Stable Diffusion, elsewhere
    assert "got dds, which needs a pixel model, for a latent one" in problem
    (problem,) = problems(MINIMAL | {"model": str(pixel_folder), "method": {"name": "p2l", "preset": None}})
    assert "method.name: got p2l, which needs a latent model, for a pixel one; allowed: " in problem
    load_config(MINIMAL | {"model": str(pixel_folder), "method": {"name": "tv"}})


def test_an_adapter_is_held_against_the_model_before_anything_loads(tmp_path: Path) -> None:
    """Of which the small shipped one has a U-Net whose text is 128 wide, Stable Diffusion's 768."""
    part = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {f"{part}.lora_A.weight": torch.ones(2, 768), f"{part}.lora_B.weight": torch.ones(128, 2)},
        tmp_path / "lcm.safetensors",
    )
    (problem,) = problems(MINIMAL | {"model": {"id": "tiny", "lora": str(tmp_path / "lcm.safetensors")}})
    assert problem.startswith("model.lora: got ")
    assert "for a weight (128, 768) where it has (128, 128)" in problem


def test_a_label_is_asked_for_where_the_network_takes_one(pixel_folder: Path) -> None:
    job = MINIMAL | {"model": str(pixel_folder)}
    (problem,) = problems(job | {"method": {"name": "dds"}})
    assert problem == "method.class_label: got none; allowed: 0 to 3, the model takes one of 4"
    found = load_config(job | {"method": {"name": "dds", "class_label": 3}})
    assert found.size == (16, 16) and found.settings["method.class_label"] == 3


def test_steps_are_judged_beside_an_operator_that_cannot_be() -> None:
    method = {"name": "ldps", "preset": "tiny", "steps": 1001}
    found = problems(MINIMAL | {"model": "tiny", "operator": {"factor": 3}, "method": method})
    assert [problem.split(":")[0] for problem in found] == ["operator.super_resolution", "method.steps"]


def test_what_fits_the_size_or_is_the_datas_own_is_not_refused() -> None:
    job = MINIMAL | {"model": "tiny", "method": {"name": "ldps", "preset": None, "steps": 1000}}
    for fits in (
        {"operator": {"name": "gaussian_blur", "size": 127}},
        {"operator": {"factor": 3}, "size": None},
        {"operator": {"factor": 3}, "mode": "restore"},
        {"operator": {"name": "inpainting", "mask": "given"}},
        {"operator": {"name": "blur"}},
    ):
        load_config(job | fits)


def test_blocks_are_compiled_of_latent_models_alone() -> None:
    for job in ({"model": "tiny-pixel", "method": "dds", "size": 64}, {"model": "tiny", "method": "tv"}):
        (problem,) = problems(MINIMAL | job, "model.compile=true")
        assert f"model.compile: got true for {job['method']}; allowed: with a method of a latent" in problem
    assert load_config(MINIMAL, ["model=tiny", "model.compile=true"]).model.compile


def test_what_will_hardly_be_meant_is_warned_of() -> None:
    assert warnings(load_config(MINIMAL)) == []
    (projection,) = warnings(load_config(MINIMAL, ["method.steps=3"]))
    assert "projection.every is 4, above the 3 steps" in projection
    (batch,) = warnings(load_config(MINIMAL, ["batch_size=8", "commit_every=2"]))
    assert "batch_size is 8" in batch
    fitted, sized = warnings(load_config(MINIMAL, ["mode=restore", "fit=pad"]))
    assert "fit is pad, but measurements are restored as they are" in fitted
    assert "size is given, but measurements are restored at their own" in sized
    patched = {"name": "p2l", "preset": "tiny", "patches": {}}
    load_config(MINIMAL | {"model": "tiny", "mode": "restore", "size": 32, "method": patched})
    (unread,) = warnings(load_config(MINIMAL | {"method": "tv", "prompt": "a cat"}))
    assert "prompt is given, but the method tv has no model that reads one" in unread
    fast = {"name": "p2l", "preset": "fast"}
    (measured,) = warnings(load_config(MINIMAL | {"method": fast}))
    assert "preset is fast, chosen on the shipped model; what it reaches with CompVis/stable" in measured
    assert warnings(load_config(MINIMAL | {"model": "tiny", "method": fast})) == []
    assert set(PRESETS) >= set(OF_SHIPPED)


def test_changes_are_named_with_both_values() -> None:
    stored = load_config(MINIMAL).settings
    now = load_config(MINIMAL, ["method.steps=50", "size=null"])
    assert changed_settings(stored, now) == ["method.steps: 1000 -> 50", "size: [512, 512] -> null"]
