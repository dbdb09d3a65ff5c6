"""The configured model, loaded."""

from __future__ import annotations

import torch

from p2l_engine import LatentDiffusion, load_model
from pipeline.config import ModelConfig


def load(config: ModelConfig) -> LatentDiffusion:
    """The model on the device of the configuration; `auto` is the GPU where there is one.

    Raises what `p2l_engine.load_model` raises.
    """
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    device = gpu if config.device == "auto" else config.device
    return load_model(config.id, revision=config.revision, device=device, dtype=config.dtype)
