"""A U-Net whose repeated blocks are compiled by torch: one at a time, so that seconds are enough.

What is compiled is kept for the next process, in TORCHINDUCTOR_CACHE_DIR or beside the models that are kept.
Gradients pass through it as through the blocks themselves.
"""

import os
import shutil
from typing import Any

import torch

from p2l_engine.priors.fetch import cache_folder

# Each is one of: a resolution's width, a size of micro-batch, with and without a gradient.
VARIANTS = 128
CXX, CC = ("CXX", "g++"), ("CC", "gcc")  # the variable that names a compiler, and the one without it


def obstacles(gpu: bool) -> list[str]:
    """Why nothing can be compiled on this machine. gpu: Triton compiles in C what starts its kernels."""
    wanted = [os.environ.get(*compiler) for compiler in ([CXX, CC] if gpu else [CXX])]
    allowed = "with a C and a C++ compiler, or false" if gpu else "with a C++ compiler, or false"
    return [
        f"compile: got true, but this machine has no {name}; allowed: {allowed}"
        for name in wanted
        if not shutil.which(name)
    ]


def compile_blocks(unet: Any) -> None:
    """Has the blocks that diffusers calls repeated compiled when they are first called, for fixed shapes."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    unet.compile_repeated_blocks(dynamic=False)
    # torch keeps its settings a thread, and the one that loads a model is not the one that calls it.
    unet.forward = torch._dynamo.config.patch(recompile_limit=VARIANTS)(unet.forward)
