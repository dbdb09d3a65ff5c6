"""Where and in what precision a model's networks compute."""

import torch

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def check_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a name; ValueError when it is not one of `DTYPES`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, allowed: {', '.join(DTYPES)}")
    return DTYPES[dtype]


def check_device(device: str | torch.device) -> torch.device:
    """The torch device of a name; ValueError when torch does not know it or this machine does not have it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: got {str(device)!r}, which is not to be had here: {reason}") from error
    return torch.device(device)


def memory_format(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """Of convolutions' weights: channels last, which kernels on CPUs take, and on GPUs in half types."""
    half_on_gpu = device.type == "cuda" and dtype.itemsize < torch.float32.itemsize
    return torch.channels_last if device.type == "cpu" or half_on_gpu else torch.contiguous_format


def bytes_of(*networks: torch.nn.Module) -> int:
    """Of all their weights."""
    weights = (weight for network in networks for weight in network.parameters())
    return sum(weight.numel() * weight.element_size() for weight in weights)
