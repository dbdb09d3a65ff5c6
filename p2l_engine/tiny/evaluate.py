"""Figures of the small model on images that training never saw."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from p2l_engine.tiny import architecture, data
from p2l_engine.tiny.photographs import held_out_photographs

COUNT = 48


def held_out_scenes() -> data.Pool:
    """48 scenes drawn from seeds that training never uses."""
    return data.scenes(COUNT, data.HELD_OUT_SEED)


@torch.no_grad()
def print_autoencoding(vae: AutoencoderKL) -> None:
    """PSNR in dB of D(E(x)) on held-out scenes, crops of held-out photographs, and these whole."""
    device = next(vae.parameters()).device
    for name, pool in (("scenes", held_out_scenes()), ("crops", data.held_out_crops(COUNT))):
        psnr = _autoencoding_psnr(vae, pool.batch(torch.arange(COUNT)).to(device))
        print(
            f"auto-encoding held-out {name}: {psnr.mean():.2f} dB (n = {COUNT}, s.d. {psnr.std():.2f})",
            flush=True,
        )
    for name, (photograph, _) in held_out_photographs().items():
        height, width = (side // 16 * 16 for side in photograph.shape[:2])
        psnr = _autoencoding_psnr(vae, data.to_tensor(photograph[None, :height, :width]).to(device))
        print(f"auto-encoding {name}, {width}x{height}: {psnr.item():.2f} dB", flush=True)


def _autoencoding_psnr(vae: AutoencoderKL, x: Tensor) -> Tensor:
    decoded = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return 10 * torch.log10(4 / (decoded - x).square().mean(dim=(1, 2, 3)))


@torch.no_grad()
def print_denoising(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Mean squared error of the predicted noise on held-out scenes: right, empty and wrong caption."""
    pool, device = held_out_scenes(), next(unet.parameters()).device
    z = vae.config.scaling_factor * vae.encode(pool.batch(torch.arange(COUNT)).to(device)).latent_dist.mean
    alpha_bar = architecture.new_scheduler().alphas_cumprod.to(device)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(device)
    prompts = {"right": pool.captions, "empty": [""] * COUNT, "wrong": pool.captions[1:] + pool.captions[:1]}
    for t in (100, 300, 500, 700, 900):
        noisy = alpha_bar[t].sqrt() * z + (1 - alpha_bar[t]).sqrt() * noise
        errors = []
        for captions in prompts.values():
            tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
            embedding = text(tokens.to(device)).last_hidden_state
            errors.append((unet(noisy, t, embedding).sample - noise).square().mean().item())
        figures = " / ".join(f"{error:.4f}" for error in errors)
        print(f"noise prediction at t = {t}, {' / '.join(prompts)} caption: {figures}", flush=True)
