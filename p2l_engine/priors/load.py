"""From a model's id to the model; the only door to diffusers and transformers."""

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from p2l_engine.mistakes import refuse
from p2l_engine.priors import fetch, layout
from p2l_engine.priors.architecture import LINEAR_BETAS, Architecture, read_architecture
from p2l_engine.priors.computing import check_device, check_dtype
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.priors.lora import Adapter, read_adapter
from p2l_engine.priors.networks import compiling
from p2l_engine.priors.pixel import PixelDiffusion
from p2l_engine.schedule import read_forward_process

Model = LatentDiffusion | PixelDiffusion


@torch.inference_mode(False)  # weights made in inference mode could never be differentiated through
def load_model(
    model_id: str,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    kind: Literal["latent", "pixel"] | None = None,
    lora: str | None = None,
    compile: bool = False,
) -> Any:
    """Loads a model in diffusers' layout: a `LatentDiffusion` (Stable Diffusion), or a `PixelDiffusion`.

    model_id: "tiny", "tiny-pixel", a hub id, a folder, or an fsspec URL of one (see `fetch`).
    revision: branch, tag or commit of a hub id.
    dtype: "float32", "float64", "float16" or "bfloat16"; see `networks/half.py` for the half types.
    kind: that it has to be of.
    lora: an adapter that is fused into a latent model's U-Net (see `lora.read_adapter`), such as LCM-LoRA.
    compile: a latent model's transformer blocks, see `networks/compiling.py`.

    Raises ValueError, before any weights are read, when the id, device or dtype is not to be had or the model
    is of another kind, when the adapter does not fit, and when nothing can be compiled here; OSError when it
    cannot be fetched.
    """
    gpu = check_device(device).type == "cuda"
    check_dtype(dtype)
    if compile:
        refuse(compiling.obstacles(gpu))
    adapter = None if lora is None else read_adapter(lora)
    folder = fetch.resolve(model_id, revision)
    names = layout.listing(folder)
    found = layout.layout_of(names)
    if kind not in (None, found.kind):
        raise ValueError(f"model {model_id!r}: it is a {found.kind} model, allowed: a {kind} one")
    if adapter is not None:
        refuse(adapter_misfits(adapter, read_architecture(model_id, revision)))
    if compile and found.kind == "pixel":
        raise ValueError(f"compile: got true for {model_id!r}, a pixel model; allowed: false")
    scheduler = next((name for name in found.scheduler if name in names), None)
    scheduler_config = json.loads((folder / scheduler).read_text()) if scheduler else LINEAR_BETAS
    read_forward_process(scheduler_config)
    common: dict[str, Any] = {
        "scheduler_config": scheduler_config,
        "name": model_id,
        "device": device,
        "dtype": dtype,
    }

    # These imports take seconds, which a mistake above should not cost.
    if found.kind == "pixel":
        with without_garbage_collection():
            from diffusers import UNet2DModel
        subfolder = found.weights["unet"].rpartition("/")[0] or None
        with without_progress_bars():
            return PixelDiffusion(
                unet=read_network(UNet2DModel, model_id, folder, "unet", subfolder), **common
            )

    with without_garbage_collection():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

    with without_progress_bars():
        unet = read_network(UNet2DConditionModel, model_id, folder, "unet", "unet")
        if adapter is not None:
            adapter.fuse(unet)
        if compile:
            compiling.compile_blocks(unet)
        return LatentDiffusion(
            vae=read_network(AutoencoderKL, model_id, folder, "vae", "vae"),
            unet=unet,
            text_encoder=read_network(CLIPTextModel, model_id, folder, "text_encoder", "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True),
            **common,
        )


def read_network(
    kind: Any,
    model_id: str,
    folder: Path,
    name: str,
    subfolder: str | None,
    wanted: layout.Layout | None = None,
) -> Any:
    """A network of the vendors' class `kind`. wanted: see `layout.layout_of`.

    Raises ValueError where its weights lack some.
    """
    loaded, report = kind.from_pretrained(
        folder,
        subfolder=subfolder,
        variant=layout.variant(folder, name, wanted),
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    layout.refuse_absent(f"model {model_id!r}: the weights of {name}", report["missing_keys"])
    return loaded


def adapter_misfits(adapter: Adapter, architecture: Architecture) -> list[str]:
    """Why an adapter cannot be fused into a model of an architecture."""
    if architecture.kind == "pixel":
        return [f"lora: got {adapter.name!r} for a pixel model; allowed: with a latent model, or null"]
    with without_garbage_collection():
        from diffusers import UNet2DConditionModel
    with torch.device("meta"):
        return adapter.misfits(UNet2DConditionModel.from_config(dict(architecture.unet)))


def without_weights(
    architecture: Architecture, name: str = "without weights", dtype: str = "float32"
) -> Model:
    """The networks of an architecture on torch's device `meta`: shapes of tensors and no numbers.

    Its functions on tensors give tensors of the same device; it has no tokenizer.
    """
    return _of_architecture(architecture, name=name, device="meta", dtype=dtype)


def with_random_weights(
    architecture: Architecture, *, device: str = "cpu", dtype: str = "float32", compile: bool = False
) -> Model:
    """The networks of an architecture as training would begin with them, the same at each call on a device.

    They cost what trained ones do. It has no tokenizer: `restore` asks for `prompt_embeddings`. compile: as
    of `load_model`. Raises ValueError when device or dtype is not to be had or nothing can be compiled here.
    """
    check_dtype(dtype)
    chosen = check_device(device)
    if compile:
        refuse(compiling.obstacles(chosen.type == "cuda"))
    with torch.random.fork_rng([chosen] if chosen.type == "cuda" else []):
        torch.manual_seed(0)
        return _of_architecture(architecture, compile, name="random weights", device=device, dtype=dtype)


def _of_architecture(architecture: Architecture, compile: bool = False, **common: Any) -> Model:
    common["scheduler_config"] = architecture.scheduler
    if architecture.kind == "pixel":
        with without_garbage_collection():
            from diffusers import UNet2DModel
        with torch.device(common["device"]):
            network = UNet2DModel.from_config(dict(architecture.unet))
        return PixelDiffusion(unet=network, **common)

    with without_garbage_collection():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device(common["device"]):
        vae = AutoencoderKL.from_config(dict(architecture.vae))
        unet = UNet2DConditionModel.from_config(dict(architecture.unet))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(dict(architecture.text_encoder)))
    if compile:
        compiling.compile_blocks(unet)
    return LatentDiffusion(vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=None, **common)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Imports make many objects and free few: the collector's passes over them cost a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Weights load without transformers' bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
