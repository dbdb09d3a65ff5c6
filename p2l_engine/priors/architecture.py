"""A model's architecture, from its small configurations: what is known of it without its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from p2l_engine.priors import fetch, layout
from p2l_engine.priors.published import PUBLISHED
from p2l_engine.schedule import ForwardProcess, read_forward_process

# DDPM's and ADM's schedule, for folders of a network alone.
LINEAR_BETAS: Mapping[str, Any] = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
}


@dataclass(frozen=True)
class LatentArchitecture:
    """The content of each part's configuration file, as a Stable Diffusion 1.x or 2.x model has them."""

    kind: ClassVar[Literal["latent"]] = "latent"

    vae: Mapping[str, Any]
    unet: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]

    @property
    def factor(self) -> int:
        """Pixels to a latent cell's side."""
        return 2 ** (len(self.vae["block_out_channels"]) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of z."""
        return int(self.vae["latent_channels"])

    @property
    def native_size(self) -> int:
        """Side in pixels of the images that the model was trained on."""
        return self.factor * int(self.unet["sample_size"])

    @property
    def image_multiple(self) -> int:
        """Height and width of an image have to be multiples of it."""
        return self.factor * 2 ** (len(self.unet["block_out_channels"]) - 1)

    @property
    def features(self) -> int:
        """Channels that the networks have at an image's own resolution."""
        return int(self.vae["block_out_channels"][0])

    @property
    def text_width(self) -> int:
        """The last dimension of text embeddings."""
        return int(self.text_encoder["hidden_size"])

    @property
    def timesteps(self) -> int:
        """How many the model was trained with: the most steps a method can take."""
        return len(self.process.alphas_cumprod)

    @property
    def process(self) -> ForwardProcess:
        """How it was trained. Raises ValueError where its scheduler is none that is known."""
        return read_forward_process(self.scheduler)

    @property
    def prompt_length(self) -> int:
        """The most tokens of a prompt that are read; a tokenizer may cut at fewer."""
        return int(self.text_encoder["max_position_embeddings"])


@dataclass(frozen=True)
class PixelArchitecture:
    """The content of the configurations of a network over images and of its scheduler."""

    kind: ClassVar[Literal["pixel"]] = "pixel"

    unet: Mapping[str, Any]
    scheduler: Mapping[str, Any]

    @property
    def native_size(self) -> int:
        """Side in pixels of the images that the model was trained on."""
        return int(self.unet["sample_size"])

    @property
    def features(self) -> int:
        """Channels that the network has at an image's own resolution."""
        return int(self.unet["block_out_channels"][0])

    @property
    def classes(self) -> int | None:
        """How many labels there are, of which the network asks for one; None where it asks for none."""
        return self.unet.get("num_class_embeds")

    @property
    def timesteps(self) -> int:
        """How many the model was trained with: the most steps a method can take."""
        return len(read_forward_process(self.scheduler).alphas_cumprod)


Architecture = LatentArchitecture | PixelArchitecture


def is_near(model_id: str) -> bool:
    """Whether the architecture is known without a network: that of a folder, and of `published` models."""
    return model_id in PUBLISHED or fetch.is_local(model_id)


def read_architecture(model_id: str, revision: str | None = None) -> Architecture:
    """The architecture of a model's id, of which only files of a few kilobytes are fetched where any are.

    Raises ValueError when the id or the architecture is none that can be used; OSError when a file cannot be
    fetched.
    """
    if model_id in PUBLISHED and not fetch.is_local(model_id):
        return LatentArchitecture(**PUBLISHED[model_id])
    found, texts = fetch.read_configs(model_id, revision)
    try:
        content = {name: json.loads(text) for name, text in texts.items()}
    except json.JSONDecodeError as error:
        raise ValueError(f"model {model_id!r}: a configuration is not JSON ({error})") from error
    configs = [content[name] for name in found.configs]
    if problems := layout.check_configs(found, configs):
        raise ValueError(f"model {model_id!r}: " + "; ".join(problems))
    if found is layout.LATENT:
        return LatentArchitecture(*configs)
    schedulers = [content[name] for name in found.scheduler if name in content]
    return PixelArchitecture(configs[0], [*schedulers, LINEAR_BETAS][0])
