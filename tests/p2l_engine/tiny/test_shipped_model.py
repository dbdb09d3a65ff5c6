"""The shipped model is good enough to show what the paper claims."""

from pathlib import Path

import pytest
import torch
from skimage.transform import resize

import p2l_engine
from p2l_engine import LatentDiffusion, methods, operators, restore
from p2l_engine.priors.networks.small_decoder import Sketching
from p2l_engine.schedule import posterior_mean
from p2l_engine.seeding import generator
from p2l_engine.tiny import data
from p2l_engine.tiny.collection import held_out_photographs

WEIGHTS = Path(p2l_engine.__file__).parent / "tiny" / "weights"


def _psnr(x: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(4 / (x - restored.clamp(-1, 1)).square().mean(dim=(1, 2, 3)))


def test_the_weights_are_safetensors_of_at_most_40_mib() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


@torch.no_grad()
def test_auto_encoding_keeps_33_db_of_held_out_scenes_and_photographs(tiny_model: LatentDiffusion) -> None:
    for pool in (data.held_out_scenes(), data.held_out_crops("tuning"), data.held_out_crops("test")):
        x = pool.batch(torch.arange(len(pool.captions)))
        assert _psnr(x, tiny_model.decode(tiny_model.encode(x))).mean() > 33


@torch.no_grad()
def test_the_small_decoder_is_near_the_decoder(tiny_model: LatentDiffusion) -> None:
    pool = data.held_out_crops("tuning")
    z = tiny_model.encode(pool.batch(torch.arange(len(pool.captions))))
    assert _psnr(tiny_model.decode(z), Sketching(tiny_model, "tiny").sketch(z)).mean() > 29


@torch.no_grad()
def test_the_right_caption_helps_and_a_wrong_one_harms(tiny_model: LatentDiffusion) -> None:
    scenes = data.held_out_scenes()
    z = tiny_model.encode(scenes.batch(torch.arange(48)))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    alpha_bar = float(tiny_model.process.alphas_cumprod[500])
    noisy = alpha_bar**0.5 * z + (1 - alpha_bar) ** 0.5 * noise

    def error(captions: list[str]) -> float:
        eps = tiny_model.predict_noise(noisy, 500, tiny_model.embed_prompts(captions))
        return (posterior_mean(noisy, eps, alpha_bar) - z).square().mean().item()

    right, empty = error(scenes.captions), error([""] * 48)
    wrong = error(scenes.captions[1:] + scenes.captions[:1])
    assert right < 0.9 * empty and empty < wrong


@pytest.mark.parametrize("size", [(96, 96), (80, 128)], ids=["1.5x", "not square"])
def test_larger_images_are_restored_as_a_whole(tiny_model: LatentDiffusion, size: tuple[int, int]) -> None:
    picture = resize(held_out_photographs("test")["mansion"].pixels, size, anti_aliasing=True)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() * 2 - 1
    A = operators.build("gaussian_blur")
    y = A.measure(x, 0.01, [generator(0, "noise")])
    method = methods.build("p2l", "tiny", "gaussian_blur", prompt_tuning=None)
    out = restore(tiny_model, A, y, method, steps=10, seeds=[0])
    assert out.images.shape == x.shape
    assert _psnr(x, out.images).item() > _psnr(x, A.backproject(y)).item()
