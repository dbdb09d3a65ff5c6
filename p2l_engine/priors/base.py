"""What a solver asks of a prior: a network that predicts noise, its schedule and its sizes."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from p2l_engine.schedule import ForwardProcess, Schedule


class Prior(Protocol):
    """What every prior that is a diffusion model has.

    device, dtype: where and in what precision its networks compute.
    evaluations: noise predictions made so far, one for each image of each call.
    image_multiple: H and W of an image have to be multiples of it.
    native_size: side in pixels of the images that it was trained on.
    process: the noise that it was trained with.
    """

    device: torch.device
    dtype: torch.dtype
    evaluations: int
    image_multiple: int
    native_size: int
    process: ForwardProcess

    def schedule(self, steps: int) -> Schedule: ...


class PixelPrior(Prior, Protocol):
    """A prior over images x (B, 3, H, W) themselves.

    classes: how many labels there are, of which the network asks for one; None where it asks for none.
    """

    classes: int | None

    def predict_noise(self, x: Tensor, t: int, label: int | None = None) -> Tensor: ...


class LatentPrior(Prior, Protocol):
    """A prior over latents z (B, C, h, w) of images x (B, 3, H, W), given text embeddings C (B, L, D).

    factor: pixels to a latent cell's side. latent_channels: channels of z. text_width: D.
    embedding_shape: (L, D). sketches: whether `sketch` is not `decode`, but only near it.
    """

    factor: int
    latent_channels: int
    text_width: int
    embedding_shape: tuple[int, int]
    sketches: bool

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...

    def sketch(self, z: Tensor) -> Tensor: ...

    def predict_noise(self, z: Tensor, t: int, C: Tensor) -> Tensor: ...

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor: ...


def canvas(size: Sequence[int], multiple: int) -> tuple[int, int]:
    """The height and width that a prior works on for an image of a size: the next of its `image_multiple`."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width
