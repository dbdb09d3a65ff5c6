"""The configured model, loaded."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from p2l_engine.priors.computing import check_device
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.priors.load import Model, load_model
from pipeline.accelerators import own_dtype
from pipeline.config import JobConfig, ModelConfig
from pipeline.output import run_json
from pipeline.stores import retries


def load(config: ModelConfig, kind: Literal["latent", "pixel"] | None = None) -> Model:
    """The model on the device and in the dtype of the configuration; `auto` is the GPU where there is one.

    Sets TF32 as `computing` does. Transient errors of a store that holds the model are tried again; files
    that came whole are not fetched twice. Raises what `p2l_engine.load_model` raises.
    """
    device, dtype = computing(config)
    load_it = partial(
        load_model,
        config.id,
        revision=config.revision,
        device=device,
        dtype=dtype,
        kind=kind,
        lora=config.lora,
        compile=config.compile,
    )
    on_a_store = "://" in f"{config.id} {config.lora}"
    model: Model = retries.retried(load_it, f"model {config.id}") if on_a_store else load_it()
    return model


def computing(config: ModelConfig) -> tuple[str, str]:
    """The device and the dtype of the networks here, as names of torch.

    Raises ValueError for a device that is not to be had here.

    Sets for this process, whatever torch's own default is, whether GPUs may round the factors of float32
    products to TF32's 10 bits: where the dtype is tf32, and nowhere else.
    """
    device = device_here(config.device)
    check_device(device)  # what it can is asked of it below
    torch.backends.cuda.matmul.allow_tf32 = config.dtype == "tf32"
    torch.backends.cudnn.allow_tf32 = config.dtype == "tf32"
    return device, "float32" if config.dtype == "tf32" else dtype_here(config.dtype, device)


def device_here(device: str) -> str:
    """A configured device, `auto` resolved for this machine."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_latent(config: ModelConfig) -> LatentDiffusion:
    """As `load`; a model of another kind raises what `p2l_engine.load_model` does."""
    model = load(config, kind="latent")
    assert isinstance(model, LatentDiffusion)
    return model


def dtype_here(dtype: str, device: str) -> str:
    """A configured dtype, `auto` resolved for a device of this process."""
    if dtype != "auto":
        return dtype
    return own_dtype(torch.cuda.get_device_capability() if device == "cuda" else None)


def as_begun(config: JobConfig, device: str) -> ModelConfig:
    """A job's model on a device of this process; dtype `auto` is what it was for the run's first worker.

    Raises ValueError for a device that is not to be had here.
    """
    check_device(device)
    dtype: str = config.model.dtype
    if dtype == "auto":
        name = torch.cuda.get_device_name() if device == "cuda" else device
        dtype = run_json.settled_dtype(config.output, dtype_here(dtype, device), name)
    return config.model.model_copy(update={"device": device, "dtype": dtype})


def unread(model: Model | None, prompt: str) -> str | None:
    """What to say of a prompt that the model does not read, or not to its end."""
    if model is None:
        return None
    if model.kind == "pixel":
        return "prompt not read: a pixel model takes no text" if prompt else None
    if (tokens := model.prompt_tokens(prompt)) <= model.prompt_length:
        return None
    return f"prompt cut: the model reads {model.prompt_length} of its {tokens} tokens"
