"""Devices that fail: how their errors are told from those of a row, and the test that each must pass first.

After an error of CUDA a process can do nothing more on its GPU, and every later row would seem to fail.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d

SIGNS = (
    *("CUDA error", "CUDA driver", "HIP error", "device-side assert", "Xid", "uncorrectable ECC"),
    *("CUBLAS_STATUS", "CUDNN_STATUS", "CUSOLVER_STATUS", "CUFFT_", "unspecified launch failure"),
    *("illegal memory access", "no kernel image", "driver shutting down"),
)
MEMORY_SIGNS = (  # torch tells of exhausted CPU memory only in the text of a plain RuntimeError
    *("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory"),
    # Of CUDA's libraries, whose convolutions find no way for want of workspace.
    *("alloc_failed", "allocation_failed", "unable to find an engine"),
)
CONTAINERS = (  # where a container finds its limit of memory: cgroups of version 2, and 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# Of a GPU's memory, and in bytes: a process alone on it, with its context, leaves less unaccounted.
SHARE_OF_OTHERS, BYTES_OF_OTHERS = 0.1, 2**31
TEST_BYTES = 2**28  # that a device must have free
TOLERANCE = 0.05  # of the largest value; TF32 is right to a thousandth
FAILED = 18  # a process's exit status

log = logging.getLogger(__name__)


class DeviceFault(RuntimeError):
    """A device that cannot be worked with, whatever the row."""


def is_fault(error: BaseException) -> bool:
    """Whether the device failed, and not what was asked of it."""
    if isinstance(error, DeviceFault):
        return True
    failed = isinstance(error, torch.AcceleratorError) or any(sign in str(error) for sign in SIGNS)
    return failed and not is_out_of_memory(error)


@contextmanager
def ending_the_process() -> Iterator[None]:
    """Ends this process at a fault of its device, so that Ray does its work again in another one."""
    try:
        yield
    except Exception as error:
        if is_fault(error):
            log.error("device failed", extra={"error": str(error)})
            os._exit(FAILED)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of the device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in MEMORY_SIGNS)
    )


def is_held_by_others(device: str) -> bool:
    """Whether other processes hold a part of the GPU's memory, as one does that was not ended in order."""
    if device != "cuda":
        return False
    free, total = torch.cuda.mem_get_info()
    held = total - free - torch.cuda.memory_reserved()
    return held > max(SHARE_OF_OTHERS * total, BYTES_OF_OTHERS)


def memory(device: str) -> int:
    """Bytes that the processes of this machine, or of its container, may hold on a device in all."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    told = [file.read_text().strip() for file in CONTAINERS if file.exists()]
    limits = [int(text) for text in told if text.isdigit()]  # "max" is none
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def check(device: str) -> None:
    """Raises DeviceFault unless the device has memory, and multiplies and convolves as the CPU does."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(256, 256, generator=generator)
    images, kernels = (
        torch.randn(2, 8, 32, 32, generator=generator),
        torch.randn(8, 8, 3, 3, generator=generator),
    )
    try:
        torch.empty(TEST_BYTES, dtype=torch.uint8, device=device)
        there = matrix.to(device), images.to(device), kernels.to(device)
        product, convolved = (there[0] @ there[0]).cpu(), conv2d(there[1], there[2]).cpu()
    except Exception as error:  # of torch, of CUDA, of its driver
        raise DeviceFault(f"device: {device!r} is not to be had here: {error}") from error
    for name, found, expected in (
        ("product", product, matrix @ matrix),
        ("convolution", convolved, conv2d(images, kernels)),
    ):
        if not _agree(found, expected):
            raise DeviceFault(f"device: {device!r} gives a wrong {name}")


def _agree(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
