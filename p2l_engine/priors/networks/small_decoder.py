"""A small decoder for gradients, such as TAESD: near D(z) at a fraction of its cost.

A folder is one of diffusers' `AutoencoderTiny`, of which the decoder is read.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from p2l_engine.priors import fetch
from p2l_engine.priors.computing import bytes_of, memory_format
from p2l_engine.priors.layout import refuse_absent
from p2l_engine.priors.networks import half
from p2l_engine.priors.published import SMALL_DECODERS

FILES = ("config.json", "diffusion_pytorch_model.safetensors")
KIND = "AutoencoderTiny"
SHIPPED = "small_decoder"  # of `fetch.component`
# What `auto` stands for, by channels of z and pixels to a cell.
KNOWN = {(12, 4): "tiny", (4, 8): "madebyollin/taesd"}
ALLOWED = f"auto, tiny, a folder of diffusers' {KIND} on this machine, or a hub id (owner/name)"


class Sketching:
    """A latent prior whose `sketch` is a small decoder's; in all else the prior itself."""

    sketches = True

    def __init__(self, prior: Any, name: str) -> None:
        self._prior = prior
        self._small = _loaded(name, prior)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def sketch(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W) near D(z) of scaled latents (B, C, h, w), differentiable; not clamped."""
        given = half.into(z.to(self.device), self._small.dtype)
        return half.out_of(self._small.decode(given).sample, z.dtype)


def check_small_decoder(name: str, latent_channels: int, factor: int) -> list[str]:
    """Why the decoder of that name cannot stand for that of a model; empty if it can."""
    try:
        name = _named(name, latent_channels, factor)
        config = _config(name)
    except (OSError, ValueError) as error:
        return [str(error)]
    enlarges = config["upsampling_scaling_factor"] ** (len(config["decoder_block_out_channels"]) - 1)
    if (config["latent_channels"], enlarges) == (latent_channels, factor):
        return []
    return [
        f"got {name!r}, for latents of {config['latent_channels']} channels, which it enlarges {enlarges} "
        f"times; allowed: of {latent_channels} channels, enlarged {factor} times, as the model's are"
    ]


@lru_cache(maxsize=2)  # one with its weights, and one without, to count by
@torch.inference_mode(False)
def load_small_decoder(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The auto-encoder of that name (see `check_small_decoder`), kept; on `meta` without its weights.

    Raises ValueError where there is none or its weights lack some; OSError where it cannot be fetched.
    """
    from diffusers import AutoencoderTiny

    if device.type == "meta":
        with torch.device("meta"):
            network = AutoencoderTiny.from_config(_config(name))
    else:
        network, report = AutoencoderTiny.from_pretrained(
            fetch.component(name, FILES, ALLOWED, SHIPPED),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        refuse_absent(f"{name!r}: its weights", report["missing_keys"])
    torch.nn.Module.to(network, device, dtype)  # diffusers' own warns of what it keeps in float32: nothing
    return network.to(memory_format=memory_format(device, dtype)).eval().requires_grad_(False)


def weight_bytes(name: str, prior: Any) -> int:
    """Of the decoder of that name beside a prior; it is loaded."""
    return bytes_of(_loaded(name, prior))


def _loaded(name: str, prior: Any) -> Any:
    return load_small_decoder(_named(name, prior.latent_channels, prior.factor), prior.device, prior.dtype)


def _named(name: str, latent_channels: int, factor: int) -> str:
    """What `auto` stands for with such latents. Raises ValueError where it is nothing."""
    if name != "auto":
        return name
    if (latent_channels, factor) not in KNOWN:
        raise ValueError(
            f"got auto, but none is known for {latent_channels} channels, enlarged {factor} times; "
            f"allowed: {ALLOWED}"
        )
    return KNOWN[latent_channels, factor]


def _config(name: str) -> dict[str, Any]:
    """The configuration, with diffusers' defaults. ValueError where it is none, with what is allowed."""
    config = SMALL_DECODERS.get(name) or fetch.component_config(name, FILES[0], ALLOWED, SHIPPED)
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != KIND:
        raise ValueError(f"got {name!r}, a {kind}; allowed: {ALLOWED}")
    return {
        "latent_channels": 4,
        "upsampling_scaling_factor": 2,
        "decoder_block_out_channels": [64] * 4,
        **config,
    }
