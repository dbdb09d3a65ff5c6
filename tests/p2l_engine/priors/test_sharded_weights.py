"""Weights in several files with an index, and checkpoints in one file: real networks, and what is said."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from torch import Tensor

from p2l_engine import load_model
from p2l_engine.priors import fetch
from p2l_engine.priors.fetch import cache_folder
from p2l_engine.priors.latent import LatentDiffusion

TINY = Path(fetch.__file__).parents[1] / "tiny" / "weights"
PARTS = ("vae", "unet", "text_encoder")
PRECISIONS = {"full": None, "half": "fp16"}


@pytest.fixture(scope="session", params=PRECISIONS)
def sharded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: LatentDiffusion
) -> Path:
    """The shipped model, each of its networks in several files."""
    folder = tmp_path_factory.mktemp("sharded") / "sd"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for name in PARTS:
        network = getattr(tiny_model, f"_{name}")
        network.save_pretrained(folder / name, max_shard_size="1MB", variant=PRECISIONS[request.param])
    indexes = list(folder.glob("*/*.index*.json"))
    assert len(indexes) == 3 and not list(folder.glob("*/*model.safetensors"))
    return folder


def outputs(model: LatentDiffusion) -> list[Tensor]:
    x = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    C = model.embed_prompts(["a red square"])
    with torch.no_grad():
        z = model.encode(x)
        return [C, z, model.predict_noise(z, 500, C), model.decode(z)]


def assert_same(model: LatentDiffusion, other: LatentDiffusion) -> None:
    """Weights to the bit; what comes out to rounding, which can depend on where in memory a file lies."""
    for name in PARTS:
        weights, others = (getattr(of, f"_{name}").state_dict() for of in (model, other))
        torch.testing.assert_close(weights, others, rtol=0, atol=0)
    torch.testing.assert_close(outputs(model), outputs(other), rtol=0, atol=1e-5)


def test_weights_in_several_files_are_those_in_one(sharded: Path, tiny_model: LatentDiffusion) -> None:
    assert_same(load_model(str(sharded)), tiny_model)


@pytest.fixture
def bucket(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("P2L_CACHE", str(tmp_path / "cache"))
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{sharded}/", "/bucket/sharded/", recursive=True)
    yield "memory://bucket/sharded"
    filesystem.rm("/bucket", recursive=True)


def test_a_bucket_s_are_fetched_with_their_index(bucket: str, tiny_model: LatentDiffusion) -> None:
    assert_same(load_model(bucket), tiny_model)


def test_a_bucket_that_lacks_one_is_refused_before_anything_is_fetched(bucket: str) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.rm(
        next(path for path in filesystem.find("/bucket") if "-00001-of-" in path and "unet" in path)
    )
    with pytest.raises(ValueError, match="unet/.*is the index of weights in several files, of which"):
        fetch.resolve(bucket)
    assert not cache_folder().exists()


@pytest.fixture
def copied(sharded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sharded, tmp_path / "copied")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is no index of weights (a JSON object with a weight_map)"),
        ("[", "is no index of weights"),
        (
            json.dumps({"weight_map": {"a": "../secret.safetensors"}}),
            "names '../secret.safetensors', which is not",
        ),
    ],
)
def test_an_index_that_is_none_is_named(copied: Path, content: str, said: str) -> None:
    (index,) = (copied / "unet").glob("*.index*.json")
    index.write_text(content)
    (problem,) = fetch.check_model_id(str(copied))
    assert f"unet/{index.name}" in problem and said in problem


@pytest.mark.parametrize(
    "given", ["models/v1-5.safetensors", "./models/v1-5.safetensors", "models/v1-5.ckpt"]
)
def test_a_checkpoint_in_one_file_comes_with_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (problem,) = fetch.check_model_id(given)
    assert "there is no such file on this machine" in problem
    Path("models").mkdir()
    Path(given).write_bytes(b"x")
    (problem,) = fetch.check_model_id(given)
    assert f"got {given!r}, a single file" in problem
    assert f"P.from_single_file({given!r}).save_pretrained('FOLDER')" in problem
    with pytest.raises(ValueError, match="a single file"):
        load_model(given)
    (problem,) = fetch.check_model_id("models")
    assert "is not in diffusers' layout" in problem and "from_single_file('models/v1-5." in problem


def test_a_bucket_s_checkpoint_is_told_from_a_folder() -> None:
    assert "there is no such file" not in fetch.check_model_id("gs://bucket/v1-5.safetensors")[0]
    assert "a single file" in fetch.check_model_id("gs://bucket/v1-5.safetensors")[0]
