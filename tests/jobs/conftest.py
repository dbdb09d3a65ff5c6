"""A model folder with random weights, for commands whose pictures need not be good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from p2l_engine.tiny import architecture
from tests.networks import narrow_unet


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's layout with a U-Net of one narrow level."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    tokenizer = architecture.train_tokenizer(["a photograph of a cat"], folder / "tokenizer")
    unet = narrow_unet(8, architecture.LATENT_CHANNELS)
    unet.save_pretrained(folder / "unet")
    architecture.new_vae().save_pretrained(folder / "vae")
    architecture.new_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    architecture.new_scheduler().save_pretrained(folder / "scheduler")
    return folder
