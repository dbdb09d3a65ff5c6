"""Captions of pictures, by any image-to-text model of transformers that needs nothing but the picture."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from p2l_engine.mistakes import Mistakes
from p2l_engine.priors import fetch, layout
from p2l_engine.priors.computing import check_device
from p2l_engine.priors.load import read_network, without_garbage_collection, without_progress_bars

TOKENS = 64  # of a caption at most; the text encoders of Stable Diffusion read 77


class Captioner:
    """Pictures to captions, each the likeliest next token at a time: the same for the same pictures.

    network, image_processor, tokenizer: transformers' of one model.
    """

    def __init__(self, network: Any, image_processor: Any, tokenizer: Any, device: torch.device) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._image_processor, self._tokenizer, self._device = image_processor, tokenizer, device

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> list[str]:
        """The caption of each picture (H, W, 3), which may differ in size."""
        images = [Image.fromarray(picture) for picture in pictures]
        inputs = self._image_processor(images=images, return_tensors="pt").to(self._device)
        tokens = self._network.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=TOKENS)
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def check_captioner(model_id: str, revision: str | None = None) -> list[str]:
    """Why a model's id is no captioner's; of one that is not here its small configuration is fetched.

    Raises OSError when that cannot be.
    """
    try:
        found, texts = fetch.read_configs(model_id, revision, layout.CAPTIONER)
        problems = layout.check_configs(found, [json.loads(texts[name]) for name in found.configs])
    except Mistakes as mistakes:
        return mistakes.problems
    except ValueError as error:
        return [str(error)]
    return [f"model {model_id!r}: {problem}" for problem in problems]


def load_captioner(
    model_id: str, *, revision: str | None = None, device: str | torch.device = "cpu"
) -> Captioner:
    """Loads an image-to-text model in float32.

    model_id: "tiny-captioner", a hub id, a folder, or an fsspec URL of one (see `fetch`).
    revision: of a hub id.

    Raises ValueError, before any weights are read, when there is no such model or device or it is of another
    kind; ConnectionError when it cannot be fetched.
    """
    there = check_device(device)
    folder = fetch.resolve(model_id, revision, layout.CAPTIONER)
    with without_garbage_collection():
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    with without_progress_bars():
        network = read_network(
            AutoModelForImageTextToText, model_id, folder, "captioner", "", layout.CAPTIONER
        )
    return Captioner(
        network.float(),
        AutoImageProcessor.from_pretrained(folder, local_files_only=True),
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
        there,
    )
