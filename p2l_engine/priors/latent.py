"""Stable Diffusion's networks as four differentiable functions; the only door to diffusers and transformers.

| symbol | here |
|---|---|
| E(x), D(z) | `encode` (posterior mean, Eq. 2 without its noise), `decode` |
| eps_theta(z_t, t, C) | `predict_noise` |
| C | `embed_prompts` |
"""

import contextlib
import gc
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from p2l_engine.priors import fetch, layout
from p2l_engine.priors.architecture import Architecture
from p2l_engine.schedule import ForwardProcess, Schedule, make_schedule, read_forward_process

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class LatentDiffusion:
    """A latent diffusion model with frozen parameters.

    The networks compute in `dtype`; what goes in and comes out is float32 (float64 when `dtype` is float64).
    Every function is differentiable with respect to its tensors.

    name: the id it was loaded by.
    device, dtype: where and in what precision the networks compute.
    factor: pixels to a latent cell's side (8 for Stable Diffusion).
    latent_channels: channels of z (4).
    image_multiple: H and W of an image have to be multiples of it, so that latents pass the U-Net's halvings.
    text_width: the last dimension of text embeddings (768).
    native_size: side in pixels of the images that the model was trained on.
    embedding_shape: (L, D) of a prompt's embedding.
    weight_bytes: of all three networks, in `dtype`.
    prompt_length: tokens of a prompt that are read (77); what is beyond is cut.
    process: how it was trained; its alphas_cumprod are (N,) float64 on the CPU.
    evaluations: noise predictions made so far, one for each image of each call.
    """

    kind: ClassVar[Literal["latent"]] = "latent"

    def __init__(
        self,
        *,
        vae: "AutoencoderKL",
        unet: "UNet2DConditionModel",
        text_encoder: "CLIPTextModel",
        tokenizer: "CLIPTokenizer | None",
        scheduler_config: Mapping[str, Any],
        name: str = "in memory",
        device: str | torch.device = "cpu",
        dtype: str = "float32",
    ) -> None:
        """Takes the modules over: they are moved, converted, frozen and set to evaluation in place.

        Raises ValueError when they are not a Stable Diffusion 1.x or 2.x model, or the device or dtype is not
        to be had.
        """
        self.device, self.dtype = check_device(device), check_dtype(dtype)
        # Only a configuration that was saved names its class.
        of_vae, of_unet = ({**part.config, "_class_name": type(part).__name__} for part in (vae, unet))
        problems = layout.check_architecture(of_vae, of_unet, text_encoder.config.to_dict())
        if problems:
            raise ValueError(f"model {name!r}: " + "; ".join(problems))
        self.name = name
        self._vae, self._unet, self._text_encoder = (
            torch.nn.Module.to(network, self.device, self.dtype).eval().requires_grad_(False)
            for network in (vae, unet, text_encoder)
        )
        self._tokenizer: Any = tokenizer
        self.weight_bytes = sum(
            weight.numel() * weight.element_size()
            for network in (self._vae, self._unet, self._text_encoder)
            for weight in network.parameters()
        )
        self._outer_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        self._scaling_factor: float = vae.config.scaling_factor

        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.latent_channels: int = vae.config.latent_channels
        self.image_multiple: int = self.factor * 2 ** (len(unet.config.block_out_channels) - 1)
        self.text_width: int = unet.config.cross_attention_dim
        self.native_size: int = self.factor * unet.config.sample_size
        # A tokenizer saved without its length says 10^30.
        longest = text_encoder.config.max_position_embeddings
        self.prompt_length = min(tokenizer.model_max_length, longest) if tokenizer else longest
        self.embedding_shape = (self.prompt_length, text_encoder.config.hidden_size)

        self.process: ForwardProcess = read_forward_process(scheduler_config)
        self.evaluations = 0

    def schedule(self, steps: int) -> Schedule:
        """The timesteps to visit in `steps` steps, spaced as the model's scheduler configuration says."""
        return make_schedule(self.process, steps)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to scaled latents (B, C, H / factor, W / factor), posterior mean.

        Raises ValueError when H or W is not a multiple of `factor`.
        """
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"image of {height}x{width} pixels: allowed are multiples of {self.factor}; pad or crop it"
            )
        mean = self._vae.encode(x.to(self.device, self.dtype)).latent_dist.mean
        return mean.to(self._outer_dtype) * self._scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) to images (B, 3, h factor, w factor), about [-1, 1], not clamped."""
        unscaled = z.to(self.device, self._outer_dtype) / self._scaling_factor
        return self._vae.decode(unscaled.to(self.dtype)).sample.to(self._outer_dtype)

    def predict_noise(self, z: Tensor, t: int, C: Tensor) -> Tensor:
        """The noise in z (B, C, h, w) at training timestep t, given text embeddings C (B, L, D).

        A network that predicts v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z_0 is converted by
        eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) z_t.
        """
        self.evaluations += len(z)
        z = z.to(self.device, self._outer_dtype)
        timestep = torch.tensor(t, device=self.device)
        prediction = self._unet(z.to(self.dtype), timestep, C.to(self.device, self.dtype)).sample
        prediction = prediction.to(self._outer_dtype)
        if self.process.prediction_type == "epsilon":
            return prediction
        alpha_bar = self.process.alphas_cumprod[t].item()
        return alpha_bar**0.5 * prediction + (1 - alpha_bar) ** 0.5 * z

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens a prompt has; `prompt_length` of them are read."""
        return len(self._tokenizer(prompt, verbose=False).input_ids)

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings (B, L, D) of B prompts, "" being the null text; L and D are 77 and 768 for SD v1.4.

        A prompt of more than L tokens is cut there, with a warning.
        """
        longest = max(map(self.prompt_tokens, prompts))
        if longest > self.prompt_length:
            warnings.warn(
                f"a prompt of {longest} tokens is cut at {self.prompt_length}, all that {self.name} reads",
                stacklevel=3,
            )
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.prompt_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self._text_encoder(tokens.to(self.device)).last_hidden_state.to(self._outer_dtype)


@torch.inference_mode(False)  # weights made in inference mode could never be differentiated through
def load_model(
    model_id: str,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
) -> LatentDiffusion:
    """Loads a Stable Diffusion 1.x or 2.x model in diffusers' layout.

    model_id: "tiny", a hub id, a folder, or an fsspec URL of one (see `fetch`).
    revision: branch, tag or commit of a hub id.
    dtype: "float32", "float64", "float16" or "bfloat16"; with float16, gradients below 6e-8 vanish.

    Raises ValueError, before any weights are read, when the id, device or dtype is not to be had or the model
    is of another kind; ConnectionError when it cannot be fetched.
    """
    check_device(device)
    check_dtype(dtype)
    folder = fetch.resolve(model_id, revision)
    scheduler_config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    read_forward_process(scheduler_config)

    # These imports take seconds, which a mistake above should not cost.
    with _without_garbage_collection():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

    def network(kind: Any, name: str) -> Any:
        loaded, report = kind.from_pretrained(
            folder,
            subfolder=name,
            variant=layout.variant(folder, name),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if absent := sorted(report["missing_keys"]):  # they would be left at random values
            raise ValueError(
                f"model {model_id!r}: the weights of {name} lack {len(absent)} tensors that its "
                f"configuration asks for, such as {absent[0]}; fetch or convert it again"
            )
        return loaded

    with _without_progress_bars():
        return LatentDiffusion(
            vae=network(AutoencoderKL, "vae"),
            unet=network(UNet2DConditionModel, "unet"),
            text_encoder=network(CLIPTextModel, "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True),
            scheduler_config=scheduler_config,
            name=model_id,
            device=device,
            dtype=dtype,
        )


def without_weights(architecture: Architecture, name: str = "without weights") -> LatentDiffusion:
    """The networks of an architecture on torch's device `meta`: shapes of tensors and no numbers, in float32.

    Its functions on tensors give tensors of the same device; it has no tokenizer, and so embeds no prompts.
    """
    with _without_garbage_collection():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        vae = AutoencoderKL.from_config(dict(architecture.vae))
        unet = UNet2DConditionModel.from_config(dict(architecture.unet))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(dict(architecture.text_encoder)))
    return LatentDiffusion(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=None,
        scheduler_config=architecture.scheduler,
        name=name,
        device="meta",
    )


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


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Imports make many objects and free few: the collector's passes over them cost a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
