"""What a model computes in: `auto` by the device, and TF32 where a job says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.accelerators import own_dtype
from pipeline.config import ModelConfig
from pipeline.worker.models import load, load_latent


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(None, "float32"), ((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_auto_is_bfloat16_on_gpus_that_multiply_it(capability: tuple[int, int] | None, expected: str) -> None:
    assert own_dtype(capability) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_gpu_that_is_not_there_is_named_before_it_is_asked_what_it_can() -> None:
    with pytest.raises(ValueError, match="device: got 'cuda', which is not to be had here"):
        load(ModelConfig.model_validate({"id": "tiny", "device": "cuda"}))


def test_the_adapter_of_a_job_is_in_the_model(tmp_path: Path) -> None:
    """Its last convolution, the network's v, made 0 by half its own weight's two but for the bias."""
    plain = load_latent(ModelConfig.model_validate({"id": "tiny", "device": "cpu"}))
    weight, channels = plain._unet.conv_out.weight.detach(), plain.latent_channels
    factors = {
        "lora_unet_conv_out.lora_down.weight": (-2 * weight).contiguous(),
        "lora_unet_conv_out.lora_up.weight": torch.eye(channels)[..., None, None],
        "lora_unet_conv_out.alpha": torch.tensor(channels / 2),
    }
    save_file(factors, tmp_path / "off.safetensors")
    adapted = {"id": "tiny", "device": "cpu", "lora": str(tmp_path / "off.safetensors")}
    model = load_latent(ModelConfig.model_validate(adapted))
    z, C = torch.randn(1, channels, 16, 16), plain.embed_prompts(["a cat"])
    a, v = model.process.alphas_cumprod[9], plain._unet.conv_out.bias[None, :, None, None]
    expected = (a.sqrt() * v + (1 - a).sqrt() * z).to(z)
    torch.testing.assert_close(model.predict_noise(z, 9, C), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "allowed"), [("tf32", True), ("auto", False), ("float32", False)])
def test_tf32_is_what_the_job_says_whatever_torch_would_do(dtype: str, allowed: bool) -> None:
    model = load(ModelConfig.model_validate({"id": "tiny", "device": "cpu", "dtype": dtype}))
    assert model.dtype == torch.float32
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
