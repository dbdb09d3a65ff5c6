"""A model's architecture, from its four small configurations: what is known of it without its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2l_engine.priors import fetch, layout
from p2l_engine.priors.published import PUBLISHED
from p2l_engine.schedule import read_forward_process


@dataclass(frozen=True)
class Architecture:
    """The content of each part's configuration file, as a Stable Diffusion 1.x or 2.x model has them."""

    vae: Mapping[str, Any]
    unet: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]

    @property
    def factor(self) -> int:
        """Pixels to a latent cell's side."""
        return 2 ** (len(self.vae["block_out_channels"]) - 1)

    @property
    def native_size(self) -> int:
        """Side in pixels of the images that the model was trained on."""
        return self.factor * int(self.unet["sample_size"])

    @property
    def timesteps(self) -> int:
        """How many the model was trained with: the most steps a method can take."""
        return len(read_forward_process(self.scheduler).alphas_cumprod)


def is_near(model_id: str) -> bool:
    """Whether the architecture is known without a network: that of a folder, and of `published` models."""
    return model_id in PUBLISHED or fetch.is_local(model_id)


def read_architecture(model_id: str, revision: str | None = None) -> Architecture:
    """The architecture of a model's id, of which only files of a few kilobytes are fetched where any are.

    Raises ValueError when the id or the architecture is none that can be used; OSError when a file cannot be
    fetched.
    """
    if model_id in PUBLISHED and not fetch.is_local(model_id):
        return Architecture(**PUBLISHED[model_id])
    texts = fetch.read_configs(model_id, revision)
    try:
        vae, unet, text_encoder, scheduler = (json.loads(texts[name]) for name in layout.CONFIGS)
    except json.JSONDecodeError as error:
        raise ValueError(f"model {model_id!r}: a configuration is not JSON ({error})") from error
    problems = layout.check_architecture(vae, unet, text_encoder)
    if problems:
        raise ValueError(f"model {model_id!r}: " + "; ".join(problems))
    return Architecture(vae, unet, text_encoder, scheduler)
