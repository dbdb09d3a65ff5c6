"""Stable Diffusion v1.4's own architecture, made in memory with random weights: about 12 GiB and minutes."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from p2l_engine import methods, operators, restore
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.priors.published import PUBLISHED

pytestmark = pytest.mark.slow

SD14 = PUBLISHED["CompVis/stable-diffusion-v1-4"]


def make_parts() -> dict:
    torch.manual_seed(0)
    characters = [chr(code) for code in range(33, 127)]
    words = [*characters, *(c + "</w>" for c in characters)]
    words += [f"<{place}>" for place in range(len(words), 49406)] + ["<|startoftext|>", "<|endoftext|>"]
    return {
        "vae": AutoencoderKL.from_config(SD14["vae"]),
        "unet": UNet2DConditionModel.from_config(SD14["unet"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_dict(SD14["text_encoder"])),
        "tokenizer": CLIPTokenizer(
            vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=77
        ),
        "scheduler_config": SD14["scheduler"],
    }


@contextmanager
def measured(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {seconds:.1f} s, peak resident memory so far {peak:.1f} GiB", flush=True)


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    with measured("making the networks"):
        parts = make_parts()
    counts = {
        name: sum(parameter.numel() for parameter in parts[name].parameters())
        for name in ("unet", "vae", "text_encoder")
    }
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    return LatentDiffusion(**parts, name="stable-diffusion-v1-4, random weights")


@torch.no_grad()
def test_each_function_at_512_pixels(model: LatentDiffusion) -> None:
    assert (model.factor, model.latent_channels, model.image_multiple, model.native_size) == (8, 4, 64, 512)
    with measured("embed_prompts"):
        C = model.embed_prompts([""])
    with measured("encode"):
        z = model.encode(torch.rand(1, 3, 512, 512) * 2 - 1)
    with measured("decode"):
        x = model.decode(z)
    with measured("predict_noise"):
        eps = model.predict_noise(z, 981, C)
    assert (C.shape, z.shape, x.shape, eps.shape) == (
        (1, 77, 768),
        (1, 4, 64, 64),
        (1, 3, 512, 512),
        (1, 4, 64, 64),
    )
    assert all(part.isfinite().all() for part in (C, z, x, eps))


def test_one_whole_step_of_p2l_at_512_pixels(model: LatentDiffusion) -> None:
    """Prompt tuning K = 1, gradient through U-Net and decoder, proximal projection, last decoding."""
    A = operators.build("super_resolution", factor=8)
    method = methods.build(
        "p2l", steps=1, prompt_tuning={"iterations": 1}, projection={"every": 1, "onto": "proximal"}
    )
    with measured("one P2L step, K = 1, and the final decoding"):
        restored = restore(model, A, torch.rand(1, 3, 64, 64) * 2 - 1, method=method)
    assert restored.errors == (None,)
    assert restored.images.shape == (1, 3, 512, 512)
    assert restored.images.isfinite().all()
    assert restored.nfe == 2
