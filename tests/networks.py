"""Networks with random weights that take milliseconds."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel, UNet2DModel

from p2l_engine.tiny import architecture


def narrow_unet(sample_size: int, channels: int) -> UNet2DConditionModel:
    """A U-Net of two narrow levels on latents of a side, with the text of the small model."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=architecture.TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def narrow_pixel_unet(sample_size: int, **settings: Any) -> UNet2DModel:
    """A U-Net of two narrow levels on images of a side."""
    return UNet2DModel(
        **{
            "sample_size": sample_size,
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            **settings,
        }
    )
