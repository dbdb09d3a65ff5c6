"""Stable Diffusion's networks as four differentiable functions.

| symbol | here |
|---|---|
| E(x), D(z) | `encode` (posterior mean, Eq. 2 without its noise), `decode` |
| eps_theta(z_t, t, C) | `predict_noise` |
| C | `embed_prompts` |
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from p2l_engine.priors import layout
from p2l_engine.priors.computing import bytes_of, check_device, check_dtype, memory_format
from p2l_engine.priors.networks import half
from p2l_engine.priors.networks.checkpointing import checkpoint_blocks
from p2l_engine.priors.networks.frozen import keep_less
from p2l_engine.schedule import ForwardProcess, Schedule, make_schedule, noise_of, read_forward_process

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

KEPT = 16  # prompts whose embeddings stay, of 0.2 MB each with Stable Diffusion


class LatentDiffusion:
    """A latent diffusion model with frozen parameters.

    The networks compute in `dtype`; what goes in and comes out is float32 (float64 when `dtype` is float64).
    In a half type texts stay float32 up to their keys and values in the U-Net (`networks/half.py`). Every
    function is differentiable with respect to its tensors.

    name: the id it was loaded by.
    device, dtype: where and in what precision the networks compute.
    factor: pixels to a latent cell's side (8 for Stable Diffusion).
    latent_channels: channels of z (4).
    image_multiple: H and W of an image have to be multiples of it, so that latents pass the U-Net's halvings.
    text_width: the last dimension of text embeddings (768).
    native_size: side in pixels of the images that the model was trained on.
    embedding_shape: (L, D) of a prompt's embedding.
    weight_bytes: of all three networks. The text encoder's are on a GPU only while it embeds.
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
        self._outer_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        half.convert(unet, self.device, self.dtype)
        torch.nn.Module.to(vae, self.device, self.dtype)
        torch.nn.Module.to(text_encoder, self._text_place, self._outer_dtype)
        self._vae, self._unet, self._text_encoder = (
            network.eval().requires_grad_(False) for network in (vae, unet, text_encoder)
        )
        for network in (self._vae, self._unet):
            network.to(memory_format=memory_format(self.device, self.dtype))
            keep_less(network)
        self._tokenizer: Any = tokenizer
        self.weight_bytes = bytes_of(self._vae, self._unet, self._text_encoder)
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
        self.sketches = False
        self._kept: dict[str, Tensor] = {}  # embeddings (1, L, D) by prompt, the last one used at the end

    def schedule(self, steps: int) -> Schedule:
        """The timesteps to visit in `steps` steps, spaced as the model's scheduler configuration says."""
        return make_schedule(self.process, steps)

    def checkpoint_activations(self, on: bool) -> None:
        """Whether gradients keep little and compute the rest again, see `networks/checkpointing.py`."""
        for network in (self._vae, self._unet):
            checkpoint_blocks(network, on)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to scaled latents (B, C, H / factor, W / factor), posterior mean.

        Raises ValueError when H or W is not a multiple of `factor`.
        """
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"image of {height}x{width} pixels: allowed are multiples of {self.factor}; pad or crop it"
            )
        given = half.into(x.to(self.device, self._outer_dtype), self.dtype)
        mean = self._vae.encode(given).latent_dist.mean
        return half.out_of(mean, self._outer_dtype) * self._scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) to images (B, 3, h factor, w factor), about [-1, 1], not clamped."""
        unscaled = z.to(self.device, self._outer_dtype) / self._scaling_factor
        return half.out_of(self._vae.decode(half.into(unscaled, self.dtype)).sample, self._outer_dtype)

    def sketch(self, z: Tensor) -> Tensor:
        """What gradients look at for D(z): here itself, see `networks/small_decoder.py`."""
        return self.decode(z)

    def predict_noise(self, z: Tensor, t: int, C: Tensor) -> Tensor:
        """The noise in z (B, C, h, w) at training timestep t, given text embeddings C (B, L, D)."""
        self.evaluations += len(z)
        z = z.to(self.device, self._outer_dtype)
        timestep = torch.full((), t, device=self.device)  # filled there: a copy would wait for a GPU
        C = C.to(self.device, self._outer_dtype)
        prediction = self._unet(half.into(z, self.dtype), timestep, C).sample
        return noise_of(self.process, half.out_of(prediction, self._outer_dtype), z, t)

    def words(self) -> list[str]:
        """The whole words of the tokenizer's vocabulary, in its order: prompts of one token."""
        end = "</w>"
        tokens = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        words = [token.removesuffix(end) for token, _ in tokens if token.endswith(end)]
        return [word for word in words if word.isalpha() and len(word) > 1]

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens a prompt has; `prompt_length` of them are read."""
        return len(self._tokenizer(prompt, verbose=False).input_ids)

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings (B, L, D) of B prompts, "" being the null text; L and D are 77 and 768 for SD v1.4.

        A prompt of more than L tokens is cut there, with a warning. On `meta`, shapes alone. ValueError for a
        model without a tokenizer.
        """
        if self.device.type == "meta":
            return torch.empty(len(prompts), *self.embedding_shape, device=self.device)
        if self._tokenizer is None:
            raise ValueError(f"prompts: {self.name} has no tokenizer; allowed: prompt_embeddings")
        longest = max(map(self.prompt_tokens, set(prompts)))
        if longest > self.prompt_length:
            warnings.warn(
                f"a prompt of {longest} tokens is cut at {self.prompt_length}, all that {self.name} reads",
                stacklevel=3,
            )
        if len(set(prompts)) == 1:  # the null text of most jobs
            return self._embedded(prompts[0]).repeat(len(prompts), 1, 1)
        return self._embed(prompts)

    def _embedded(self, prompt: str) -> Tensor:
        """As `_embed` of one prompt, of which the last few are kept."""
        C = self._kept.pop(prompt, None)
        self._kept[prompt] = C = self._embed([prompt]) if C is None else C
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return C

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.prompt_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        encoder = self._text_encoder
        weights = {
            name: tensor.to(self.device)
            for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers())
        }
        C: Tensor = functional_call(encoder, weights, (tokens.to(self.device),)).last_hidden_state
        return C

    @property
    def _text_place(self) -> torch.device:
        """Where the text encoder waits: not on a GPU, whose memory gradients need."""
        return torch.device("cpu") if self.device.type == "cuda" else self.device
