"""The auto-encoder, the U-Net and the noise schedule of the small model of photographs."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from p2l_engine.tiny.architecture import LATENT_NOISE, TEXT_WIDTH

LATENT_CHANNELS = 12


def new_vae() -> AutoencoderKL:
    """An auto-encoder: 12 latent channels, a quarter of the side, a posterior of constant variance."""
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        latent_channels=LATENT_CHANNELS,
        sample_size=64,
    )
    with torch.no_grad():
        vae.quant_conv.weight[LATENT_CHANNELS:] = 0
        vae.quant_conv.bias[LATENT_CHANNELS:] = 2 * torch.tensor(LATENT_NOISE).log()
    return vae


def new_unet() -> UNet2DConditionModel:
    """A U-Net on 16x16 latents; attention, to itself and to the text, at 8x8, 4x4 and in the middle."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule; the network predicts v (Salimans and Ho, 2022)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
