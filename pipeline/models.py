"""The configured model, loaded."""

from __future__ import annotations

from functools import partial

import torch

from p2l_engine import LatentDiffusion, load_model
from pipeline import retries
from pipeline.config import ModelConfig


def load(config: ModelConfig) -> LatentDiffusion:
    """The model on the device of the configuration; `auto` is the GPU where there is one.

    Transient errors of a store that holds it are tried again; files that came whole are not fetched twice.
    Raises what `p2l_engine.load_model` raises.
    """
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    device = gpu if config.device == "auto" else config.device
    load_it = partial(load_model, config.id, revision=config.revision, device=device, dtype=config.dtype)
    return retries.retried(load_it, f"model {config.id}") if "://" in config.id else load_it()
