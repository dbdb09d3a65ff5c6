"""A model folder with random weights, for commands whose pictures need not be good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from p2l_engine.tiny import architecture


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's layout with a U-Net of one narrow level."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    tokenizer = architecture.train_tokenizer(["a photograph of a cat"], folder / "tokenizer")
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=architecture.LATENT_CHANNELS,
        out_channels=architecture.LATENT_CHANNELS,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=architecture.TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    unet.save_pretrained(folder / "unet")
    architecture.new_vae().save_pretrained(folder / "vae")
    architecture.new_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    architecture.new_scheduler().save_pretrained(folder / "scheduler")
    return folder
