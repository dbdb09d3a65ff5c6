"""Activation checkpointing: a gradient's memory for the time of one more pass through each block."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import Module
from torch.utils.checkpoint import checkpoint

# Of diffusers' classes. Its own switch takes a level of the VAE, three residual blocks, for one block: a step
# of Stable Diffusion then needs two fifths more.
BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "Upsample2D")


def checkpoint_blocks(network: Module, on: bool) -> None:
    """Whether a gradient through the network keeps its blocks' inputs alone and computes the rest again.

    The same operations give the same numbers: to the bit where the device's repeat.
    """
    for block in network.modules():
        if type(block).__name__ in BLOCKS:
            vars(block).pop("forward", None)
            if on:
                block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
