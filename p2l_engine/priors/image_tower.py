"""CLIP's image tower: pictures to vectors in the space of a text encoder; as a folder of transformers.

A folder is one of `CLIPVisionModelWithProjection`, or of a whole CLIP model, of which the tower is read.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from p2l_engine.priors import fetch
from p2l_engine.priors.computing import bytes_of
from p2l_engine.priors.layout import refuse_absent
from p2l_engine.priors.load import without_progress_bars
from p2l_engine.priors.published import IMAGE_TOWERS

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

SHIPPED = "image_tower"  # of `fetch.component`
FILES = ("config.json", "model.safetensors")
ALLOWED = "tiny, a folder of a CLIPVisionModelWithProjection on this machine, or a hub id (owner/name)"
KINDS = ("clip_vision_model", "clip")
# Of the pixels in [0, 1] that CLIP was trained on, by channel.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ImageTower:
    """Images to vectors of length 1; differentiable. weight_bytes: of its weights."""

    def __init__(self, network: "CLIPVisionModelWithProjection") -> None:
        self._network = network
        self.weight_bytes = bytes_of(network)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in about [-1, 1], squeezed into the tower's own square, to (B, D)."""
        weight = next(self._network.parameters())
        side = self._network.config.image_size
        if x.shape[-2:] != (side, side):
            x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=True)
        mean, deviation = (x.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
        pixels = ((x + 1) / 2 - mean) / deviation
        vectors = self._network(pixels.to(weight.device, weight.dtype)).image_embeds.to(x.dtype)
        return F.normalize(vectors, dim=1)


def check_tower(name: str, text_width: int) -> list[str]:
    """Why the tower of that name cannot be used beside text embeddings of a width; empty if it can."""
    try:
        width = _vision(name)["projection_dim"]
    except (OSError, ValueError) as error:
        return [str(error)]
    if width == text_width:
        return []
    return [
        f"got {name!r}, whose vectors have the width {width}; allowed: a tower of width {text_width}, as the "
        "model's text embeddings have"
    ]


@lru_cache(maxsize=2)  # one with its weights, and one without, to count by
@torch.inference_mode(False)
def load_tower(name: str, device: torch.device, dtype: torch.dtype) -> ImageTower:
    """The tower of that name (see `check_tower`), kept for the next call; on `meta` without its weights.

    Raises ValueError where there is none or its weights lack some; OSError where it cannot be fetched.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    network: Any
    if device.type == "meta":
        with torch.device("meta"):
            network = CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(_vision(name)))
    else:
        folder = fetch.component(name, FILES, ALLOWED, SHIPPED)
        with without_progress_bars():
            network, report = CLIPVisionModelWithProjection.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        refuse_absent(f"tower {name!r}: its weights", report["missing_keys"])
    return ImageTower(network.to(device, dtype).eval().requires_grad_(False))


def _vision(name: str) -> dict[str, Any]:
    """The configuration of a tower. ValueError where it is none, with what is allowed."""
    config = IMAGE_TOWERS.get(name) or fetch.component_config(name, FILES[0], ALLOWED, SHIPPED)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in KINDS:
        raise ValueError(f"got {name!r}, a model of type {kind}; allowed: {' or '.join(KINDS)}")
    vision: dict[str, Any] = config["vision_config"] if kind == "clip" else config
    return {"projection_dim": 512} | vision
