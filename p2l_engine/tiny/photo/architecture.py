"""The auto-encoder, the U-Net and the noise schedule of the small model of photographs."""

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from p2l_engine.tiny import architecture
from p2l_engine.tiny.architecture import TEXT_WIDTH

LATENT_CHANNELS = 12


def new_vae() -> AutoencoderKL:
    """An auto-encoder: 12 latent channels, a quarter of the side, a posterior of constant variance."""
    return architecture.new_vae(LATENT_CHANNELS, widths=(32, 64, 96), groups=4)


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
    return architecture.new_scheduler(prediction_type="v_prediction")
