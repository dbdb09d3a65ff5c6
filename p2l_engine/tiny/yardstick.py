"""How good the model is at what restoration asks of it: ``python -m p2l_engine.tiny.yardstick MODEL``.

Printed on held-out drawn scenes and on crops of the held-out photographs of one half: what the auto-encoder
keeps, and the error of the denoiser's E[z_0 | z_t] with the right caption, the empty and a wrong one; on the
crops also the PSNR of pictures freed of noise in one step, beside non-local means, which needs no network.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means
from torch import Tensor

from p2l_engine import LatentDiffusion, load_model
from p2l_engine.schedule import posterior_mean
from p2l_engine.tiny.collection import Half
from p2l_engine.tiny.data import HELD_OUT_EXTENTS, Pool, held_out_crops, held_out_scenes

TIMESTEPS = (50, 100, 200, 400, 500, 600, 800)
SIGMAS = (0.1, 0.2, 0.4)  # of noise on images in [-1, 1]


def psnr(x: Tensor, restored: Tensor) -> float:
    """Mean PSNR in dB of images (B, 3, H, W) in [-1, 1]."""
    errors = (restored.clamp(-1, 1) - x).square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(4 / errors)).mean().item()


def latent_error(model: LatentDiffusion, z: Tensor, t: int, captions: list[str]) -> float:
    """Mean squared error of E[z_0 | z_t] for latents z (B, C, h, w), relative to their variance."""
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(t))
    return ((_denoised(model, z, noise, t, captions) - z).square().mean() / z.var()).item()


def denoise_in_one_step(model: LatentDiffusion, x: Tensor, y: Tensor) -> Tensor:
    """D(E[z_0 | z_t]) of noisy images y (B, 3, H, W), where sqrt(alpha_bar_t) E(y) is taken for z_t.

    x, the clean images, serve only to measure how strong the noise is in latents, which chooses t.
    """
    z = model.encode(y)
    strength = (z - model.encode(x)).square().mean().sqrt().item()
    ratio = ((1 - model.process.alphas_cumprod) / model.process.alphas_cumprod).sqrt()
    t = int((ratio - strength).abs().argmin())
    return model.decode(_denoised(model, z, torch.zeros_like(z), t, [""] * len(z)))


def non_local_means(y: Tensor, sigma: float) -> Tensor:
    """Non-local means (Buades et al., 2005) with noise of standard deviation ``sigma`` known."""
    return _each(y, lambda image: denoise_nl_means(
        image, patch_size=5, patch_distance=11, h=0.6 * sigma, sigma=sigma, channel_axis=-1
    ))  # fmt: skip


def print_figures(model: LatentDiffusion, half: Half) -> None:
    """Print the figures on drawn scenes and on the crops of a half of the held-out photographs."""
    crops = held_out_crops(half)
    print_latents(model, "drawn scenes", held_out_scenes())
    print_latents(model, f"crops of the {half} photographs", crops)
    print_denoising(model, crops)


@torch.no_grad()
def print_latents(model: LatentDiffusion, name: str, pool: Pool) -> None:
    """Print what the auto-encoder keeps, and the denoiser's error with three kinds of captions."""
    count, apart = len(pool.captions), len(HELD_OUT_EXTENTS)  # so many crops have one caption
    captions = {
        "the right": pool.captions,
        "the empty": [""] * count,
        "a wrong": pool.captions[apart:] + pool.captions[:apart],
    }
    x = pool.batch(torch.arange(count)).double()
    z = model.encode(x)
    print(f"{count} {name}\nauto-encoding: {psnr(x, model.decode(z)):.2f} dB", flush=True)
    for t in TIMESTEPS:
        errors = ", ".join(
            f"{latent_error(model, z, t, texts):.4f} with {kind}" for kind, texts in captions.items()
        )
        print(f"error of E[z_0 | z_t] at t = {t}: {errors} caption", flush=True)


@torch.no_grad()
def print_denoising(model: LatentDiffusion, pool: Pool) -> None:
    """Print the PSNR of pictures freed of noise."""
    x = pool.batch(torch.arange(len(pool.captions))).double()
    for sigma in SIGMAS:
        y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        answers = {
            "y itself": y,
            "one step": denoise_in_one_step(model, x, y),
            "non-local means": non_local_means(y, sigma),
        }
        figures = ", ".join(f"{name} {psnr(x, answer):.2f} dB" for name, answer in answers.items())
        print(f"denoising at sigma = {sigma}: {figures}", flush=True)


def _denoised(model: LatentDiffusion, z: Tensor, noise: Tensor, t: int, captions: list[str]) -> Tensor:
    alpha_bar = float(model.process.alphas_cumprod[t])
    noised = alpha_bar**0.5 * z + (1 - alpha_bar) ** 0.5 * noise.to(z)
    eps = model.predict_noise(noised, t, model.embed_prompts(captions))
    return posterior_mean(noised, eps, alpha_bar)


def _each(y: Tensor, denoise: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Tensor:
    images = [denoise(image.permute(1, 2, 0).numpy()) for image in y.double()]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def main() -> None:
    """Print the figures of the model that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a model in diffusers' layout")
    parser.add_argument("--half", choices=get_args(Half), default="tuning")
    arguments = parser.parse_args()
    print_figures(load_model(str(arguments.model)), arguments.half)


if __name__ == "__main__":
    main()
