"""A U-Net whose repeated blocks are compiled by torch: one at a time, so that seconds are enough.

What is compiled is kept in inductor's own cache on this machine (TORCHINDUCTOR_CACHE_DIR), where the next
process finds it. Gradients pass through it as through the blocks themselves.
"""

import os
import shutil
from typing import Any

import torch

# Each is one of: a resolution's width, a size of micro-batch, with and without a gradient.
VARIANTS = 128


def obstacles() -> list[str]:
    """Why nothing can be compiled on this machine."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler):
        return []
    return [f"compile: got true, but this machine has no {compiler}; allowed: with a C++ compiler, or false"]


def compile_blocks(unet: Any) -> None:
    """Has the blocks that diffusers calls repeated compiled when they are first called, for fixed shapes."""
    torch._dynamo.config.recompile_limit = VARIANTS
    unet.compile_repeated_blocks(dynamic=False)
