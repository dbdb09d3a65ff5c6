"""Pixel models: the folders that hold one, what they compute, and what is refused before weights are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from p2l_engine import PixelDiffusion, load_model
from p2l_engine.priors import fetch
from p2l_engine.priors.architecture import LINEAR_BETAS, PixelArchitecture, read_architecture
from p2l_engine.priors.load import without_weights
from tests.networks import narrow_pixel_unet

COSINE = DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def new_unet(**settings: Any) -> UNet2DModel:
    torch.manual_seed(0)
    return narrow_pixel_unet(16, **settings)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """As DDPMPipeline saves it."""
    DDPMPipeline(new_unet(), COSINE).save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """As the network alone is saved."""
    new_unet().save_pretrained(tmp_path / "network")
    return tmp_path / "network"


def test_a_loaded_folder_computes_what_its_network_computes(pipeline: Path, network: Path) -> None:
    x, unet = torch.randn(2, 3, 16, 16), new_unet().eval()
    with torch.no_grad():
        expected = unet(x, 300).sample
        for folder in (pipeline, network):
            model = load_model(str(folder))
            assert isinstance(model, PixelDiffusion)
            torch.testing.assert_close(model.predict_noise(x, 300), expected)
            assert (model.image_multiple, model.native_size, model.classes) == (2, 16, None)
            assert model.evaluations == 2


def test_the_schedule_is_the_folders_or_that_of_ddpm(pipeline: Path, network: Path) -> None:
    cosine, linear = load_model(str(pipeline)).process, load_model(str(network)).process
    torch.testing.assert_close(cosine.alphas_cumprod.float(), COSINE.alphas_cumprod, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        linear.alphas_cumprod.float(), DDPMScheduler().alphas_cumprod, rtol=1e-4, atol=1e-7
    )
    COSINE.save_pretrained(network)
    beside = load_model(str(network)).process
    assert torch.equal(beside.alphas_cumprod, cosine.alphas_cumprod)
    assert linear.set_alpha_to_one and beside.set_alpha_to_one


def test_of_six_channels_the_first_three_are_the_noise(tmp_path: Path) -> None:
    unet = new_unet(out_channels=6).eval()
    unet.save_pretrained(tmp_path)
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        found = load_model(str(tmp_path)).predict_noise(x, 7)
        torch.testing.assert_close(found, unet(x, 7).sample[:, :3])


def test_a_label_chooses_what_the_network_predicts(tmp_path: Path) -> None:
    unet = new_unet(num_class_embeds=5).eval()
    unet.save_pretrained(tmp_path)
    model, x = load_model(str(tmp_path)), torch.randn(2, 3, 16, 16)
    assert model.classes == read_architecture(str(tmp_path)).classes == 5  # type: ignore[union-attr]
    with torch.no_grad():
        expected = unet(x, 9, class_labels=torch.tensor([3, 3])).sample
        torch.testing.assert_close(model.predict_noise(x, 9, 3), expected)
        assert not torch.allclose(model.predict_noise(x, 9, 2), expected)


def test_velocity_becomes_noise() -> None:
    unet, x = new_unet().eval(), torch.randn(1, 3, 16, 16)
    model = PixelDiffusion(unet=unet, scheduler_config={**LINEAR_BETAS, "prediction_type": "v_prediction"})
    a = float(model.process.alphas_cumprod[400])
    with torch.no_grad():
        expected = a**0.5 * unet(x, 400).sample + (1 - a) ** 0.5 * x
        torch.testing.assert_close(model.predict_noise(x, 400), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_numbers_outside_the_network_are_float32_at_least(network: Path, dtype: str) -> None:
    model = load_model(str(network), dtype=dtype)
    eps = model.predict_noise(torch.randn(1, 3, 16, 16), 5)
    assert eps.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert model.weight_bytes == sum(p.numel() for p in new_unet().parameters()) * model.dtype.itemsize


def test_gradients_reach_the_image_and_no_parameter(network: Path) -> None:
    model, x = load_model(str(network)), torch.randn(1, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.predict_noise(x, 100).sum(), x)
    assert float(gradient.abs().max()) > 0
    assert not any(p.requires_grad for p in model._unet.parameters())


def test_half_precision_files_alone_will_do(tmp_path: Path) -> None:
    new_unet().half().save_pretrained(tmp_path, variant="fp16")
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        expected = new_unet().half().float().eval()(x, 3).sample
        torch.testing.assert_close(load_model(str(tmp_path)).predict_noise(x, 3), expected)


@pytest.fixture
def bucket(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("P2L_CACHE", str(tmp_path / "cache"))
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{pipeline}/", "/pixels/model/", recursive=True)
    yield "memory://pixels/model"
    filesystem.rm("/pixels", recursive=True)


def test_a_bucket_s_is_fetched_and_its_architecture_read_without_weights(
    bucket: str, pipeline: Path, tmp_path: Path
) -> None:
    known = read_architecture(bucket)
    assert isinstance(known, PixelArchitecture) and not (tmp_path / "cache").exists()
    assert (known.native_size, known.timesteps, known.classes) == (16, 1000, None)
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(
            load_model(bucket).predict_noise(x, 1), load_model(str(pipeline)).predict_noise(x, 1)
        )


def test_an_architecture_alone_gives_shapes(network: Path) -> None:
    model = without_weights(read_architecture(str(network)))
    assert model.kind == "pixel" and model.schedule(10).steps[-1].alpha_bar_prev == 1
    assert model.predict_noise(torch.empty(2, 3, 16, 16, device="meta"), 5).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"in_channels": 6}, "unet's in_channels is 6, allowed: 3"),
        ({"out_channels": 4}, "unet's out_channels is 4, allowed: 3, 6"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier', allowed: 'positional'"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep', allowed: None"),
        ({"center_input_sample": True}, "center_input_sample is True, allowed: False"),
        ({"sample_size": [16, 32]}, "sample_size is .*the side of the images"),
        (
            {"_class_name": "UNet2DConditionModel"},
            "its network is a UNet2DConditionModel, allowed: UNet2DModel",
        ),
    ],
)
def test_another_architecture_is_refused_from_its_configuration(
    network: Path, change: dict[str, Any], said: str
) -> None:
    config = network / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    (network / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=said):
        load_model(str(network))
    with pytest.raises(ValueError, match=said):
        read_architecture(str(network))


def test_a_network_of_noise_levels_is_refused_by_its_scheduler(network: Path) -> None:
    (network / "scheduler_config.json").write_text(json.dumps({"_class_name": "ScoreSdeVeScheduler"}))
    with pytest.raises(ValueError, match="_class_name is 'ScoreSdeVeScheduler', allowed: DDIMScheduler"):
        load_model(str(network))


@pytest.mark.parametrize("kind", ["pipeline", "network"])
def test_pickled_weights_come_with_the_command_that_converts_them(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    (weights,) = folder.rglob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    (problem,) = fetch.check_model_id(str(folder))
    loader = {"pipeline": "DDPMPipeline", "network": "UNet2DModel"}[kind]
    assert "only pickled weights are there" in problem and f"import {loader} as P" in problem


def test_a_model_of_the_wrong_kind_is_refused_before_its_weights_are_read(network: Path) -> None:
    (network / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="it is a pixel model, allowed: a latent one"):
        load_model(str(network), kind="latent")
    with pytest.raises(ValueError, match="'tiny': it is a latent model, allowed: a pixel one"):
        load_model("tiny", kind="pixel")


def test_weights_that_lack_a_tensor_are_refused(network: Path) -> None:
    file = network / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_in.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lack 1 tensors .*conv_in.weight"):
        load_model(str(network))
