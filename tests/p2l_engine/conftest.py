"""Small random models, for tests that need exactness and not quality."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.priors.pixel import PixelDiffusion
from p2l_engine.tiny import architecture
from tests.networks import narrow_pixel_unet, narrow_unet


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    """Random networks in float64: images of multiples of 8 pixels, latents of a quarter of the side."""
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = architecture.train_tokenizer(["a red square on blue stripes"], folder)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=16,
    )
    unet = narrow_unet(4, channels=4)
    return LatentDiffusion(
        vae=vae,
        unet=unet,
        text_encoder=architecture.new_text_encoder(tokenizer),
        tokenizer=tokenizer,
        scheduler_config=dict(architecture.new_scheduler().config)
        | {"_class_name": "DDIMScheduler", "prediction_type": "epsilon"},
        dtype="float64",
    )


@pytest.fixture(scope="session")
def pixel_model() -> PixelDiffusion:
    """A random network over images in float64, of multiples of 2 pixels."""
    torch.manual_seed(0)
    return PixelDiffusion(unet=narrow_pixel_unet(8), dtype="float64")


@pytest.fixture(scope="session")
def labelled_pixel_model() -> PixelDiffusion:
    """One that asks for one of four labels and predicts its variance too, as ADM's do."""
    torch.manual_seed(0)
    return PixelDiffusion(unet=narrow_pixel_unet(8, out_channels=6, num_class_embeds=4), dtype="float64")
