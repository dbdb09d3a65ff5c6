"""Train the small latent diffusion model: ``python -m p2l_engine.tiny.train --packages FOLDER``.

Four stages: the auto-encoder's linear map, the auto-encoder, its decoder alone, then the U-Net with its text
encoder on the auto-encoder's latents. Each saves a checkpoint every two minutes and goes on from it when the
command is given again. ``--snapshot FOLDER`` trains nothing: it writes the averaged weights of the
checkpoints there in diffusers' layout, in half precision, and ``--start FOLDER`` goes on from such weights
where there is no checkpoint.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import avg_pool2d
from transformers import CLIPTextModel, CLIPTokenizer

from p2l_engine.priors.fetch import trained_steps
from p2l_engine.tiny import architecture, data
from p2l_engine.tiny.architecture import LATENT_NOISE, new_text_encoder, train_tokenizer
from p2l_engine.tiny.collection import Photograph, training_photographs
from p2l_engine.tiny.data import Pool
from p2l_engine.tiny.linear_start import decode_linearly, encode_linearly, start_from_linear_map
from p2l_engine.tiny.training import (
    Training,
    draw,
    encode,
    random_crops,
    save,
    save_progress,
    token_ids,
)

CAPTIONS_DROPPED = 0.10
PASSES = 8  # over the images of an epoch before others are drawn

Pools = tuple[Pool, Pool]
Captioned = list[tuple[Tensor, Tensor]]  # latents and token numbers of scenes, and of crops of photographs
Prepared = TypeVar("Prepared")
Network = TypeVar("Network", AutoencoderKL, UNet2DConditionModel)


@dataclass(frozen=True)
class Recipe:
    """Sizes of the training; half of every batch are drawn scenes, half crops of photographs."""

    epoch: int = 4096  # scenes, and as many crops, that are drawn at a time
    linear_steps: int = 3_000
    linear_batch: int = 8
    linear_learning_rate: float = 3e-3
    vae_steps: int = 10_000
    vae_batch: int = 12
    vae_learning_rate: float = 1.5e-3
    vae_whole_images: float = 0.15  # the last share of the steps sees a third as many whole images, not 32x32
    decoder_steps: int = 1_500
    decoder_batch: int = 6
    decoder_learning_rate: float = 5e-4
    unet_steps: int = 48_000
    unet_batch: int = 32
    unet_whole_every: int = 4  # one step of so many sees whole images, the others those of half the side
    unet_learning_rate: float = 6e-4
    unet_decay: float = 0.9995


def train_vae(recipe: Recipe, photographs: list[Photograph], work: Path, device: str) -> AutoencoderKL:
    """The auto-encoder, from its linear map on."""
    torch.manual_seed(0)
    vae = architecture.new_vae().to(device, memory_format=torch.channels_last)
    pools = _epochs(recipe, photographs, lambda drawn: drawn)

    def images(step: int, batch: int, side: int, generator: torch.Generator) -> Tensor:
        drawn = pools(epoch_of(recipe, step, batch))
        x = torch.cat([pool.batch(draw(pool, batch // 2, generator)) for pool in drawn])
        x = x if side == x.shape[-1] else random_crops(x, side, generator)
        return x.to(device, memory_format=torch.channels_last)

    def noisy(mean: Tensor, generator: torch.Generator) -> Tensor:
        return mean + LATENT_NOISE * torch.randn(mean.shape, generator=generator).to(device)

    def linear_loss(step: int, generator: torch.Generator) -> Tensor:
        x = images(step, recipe.linear_batch, 32, generator)
        mean = encode_linearly(vae, x)
        return _error(decode_linearly(vae, noisy(mean, generator)), x) + _size(mean)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        whole = step >= (1 - recipe.vae_whole_images) * recipe.vae_steps
        x = images(step, recipe.vae_batch // 3 if whole else recipe.vae_batch, 64 if whole else 32, generator)
        with _autocast(device):
            mean = vae.encode(x).latent_dist.mean
            decoded = vae.decode(noisy(mean, generator)).sample.float()
            # A latent of half the size is to decode to the image of half the size (Skorokhodov et al., 2025):
            # it keeps out of the latents the fine structure that a denoiser learns last.
            half = mean[step % 2 :: 2]
            smaller = vae.decode(noisy(avg_pool2d(half, 2), generator)).sample.float()
        return (
            _error(decoded, x) + 0.25 * _error(smaller, avg_pool2d(x[step % 2 :: 2], 2)) + _size(mean.float())
        )

    linear = Training({"vae": vae}, recipe.linear_learning_rate, recipe.linear_steps, work / "linear.pt")
    linear.run(linear_loss, "linear map")
    linear.averaged()
    start_from_linear_map(vae)
    vae.train().requires_grad_(True)
    training = Training({"vae": vae}, recipe.vae_learning_rate, recipe.vae_steps, work / "vae.pt")
    training.run(loss, "vae")
    training.averaged()

    def squared_error(step: int, generator: torch.Generator) -> Tensor:
        """Of whole images alone, which the encoder no longer follows: what PSNR measures."""
        x = images(step, recipe.decoder_batch, 64, generator)
        with torch.no_grad():
            z = noisy(vae.encode(x).latent_dist.mean, generator)
        return (vae.decode(z).sample - x).square().mean()

    vae.decoder.train().requires_grad_(True)
    decoder = Training(
        {"decoder": vae.decoder}, recipe.decoder_learning_rate, recipe.decoder_steps, work / "decoder.pt"
    )
    decoder.run(squared_error, "decoder")
    decoder.averaged()
    _scale(vae, pools(0), device)
    return vae


def train_unet(
    recipe: Recipe,
    photographs: list[Photograph],
    vae: AutoencoderKL,
    text: CLIPTextModel,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    first_step: int,
    work: Path,
    device: str,
) -> None:
    """The U-Net and its text encoder: the squared error of v, some captions dropped for the empty one."""
    unet.to(device, memory_format=torch.channels_last)
    training = _unet_training(recipe, unet, text.to(device), work)
    training.step = max(training.step, first_step)
    alpha_bar = architecture.new_scheduler().alphas_cumprod
    whole, half_side = (
        latents_by_epoch(recipe, photographs, vae, tokenizer, device, reduced) for reduced in (1, 2)
    )

    def loss(step: int, generator: torch.Generator) -> Tensor:
        wholes, apart = divmod(step, recipe.unet_whole_every)
        latents, seen = (half_side, step) if apart else (whole, wholes)
        z, ids = batch_of(latents(epoch_of(recipe, seen, recipe.unet_batch)), recipe, tokenizer, generator)
        t = torch.randint(len(alpha_bar), (len(z),), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        noised = (a.sqrt() * z + (1 - a).sqrt() * noise).to(device, memory_format=torch.channels_last)
        velocity = (a.sqrt() * noise - (1 - a).sqrt() * z).to(device)
        with _autocast(device):
            embedding = text(ids.to(device)).last_hidden_state
            predicted = unet(noised, t.to(device), embedding).sample.float()
        return (predicted - velocity).square().mean()

    training.run(loss, "unet")
    training.averaged()


def read_snapshot(folder: Path, device: str) -> tuple[AutoencoderKL, UNet2DConditionModel, CLIPTextModel]:
    """A model's networks, in float32; the auto-encoder frozen, the others to be trained further."""
    vae, unet = _read(AutoencoderKL, folder / "vae"), _read(UNet2DConditionModel, folder / "unet")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    return vae.to(device).requires_grad_(False), unet.to(device).train(), text.to(device).train()


def _read(kind: type[Network], folder: Path) -> Network:
    """Not by `from_pretrained`, whose networks write where they were read from into what they save."""
    network: Network = kind.from_config(kind.load_config(folder))
    network.load_state_dict(load_file(folder / SAFETENSORS_WEIGHTS_NAME))
    return network


def latents_by_epoch(
    recipe: Recipe,
    photographs: list[Photograph],
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    device: str,
    reduced: int = 1,
) -> Callable[[int], Captioned]:
    """The latents of an epoch's images, reduced by averaging, and their captions, by its number."""
    return _epochs(
        recipe,
        photographs,
        lambda drawn: [
            (encode(vae, pool, device, reduced), token_ids(tokenizer, pool.captions)) for pool in drawn
        ],
    )


def batch_of(
    latents: Captioned, recipe: Recipe, tokenizer: CLIPTokenizer, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w) and token numbers (B, L), half of scenes; some captions are the empty one."""
    chosen = [
        (z[index], ids[index])
        for z, ids in latents
        for index in [torch.randint(len(z), (recipe.unet_batch // 2,), generator=generator)]
    ]
    z, ids = (torch.cat(parts) for parts in zip(*chosen, strict=True))
    ids[torch.rand(len(z), generator=generator) < CAPTIONS_DROPPED] = token_ids(tokenizer, [""])[0]
    return z, ids


def _unet_training(recipe: Recipe, unet: UNet2DConditionModel, text: CLIPTextModel, work: Path) -> Training:
    return Training(
        {"unet": unet, "text": text},
        recipe.unet_learning_rate,
        recipe.unet_steps,
        work / "unet.pt",
        share=lambda progress: min(1.0, progress / 0.01, (1 - progress) / 0.1),
        decay=recipe.unet_decay,
    )


def _epochs(
    recipe: Recipe, photographs: list[Photograph], prepare: Callable[[Pools], Prepared]
) -> Callable[[int], Prepared]:
    @lru_cache(maxsize=1)
    def prepared(index: int) -> Prepared:
        return prepare(data.epoch(photographs, recipe.epoch, index))

    return prepared


def epoch_of(recipe: Recipe, step: int, batch: int) -> int:
    """The number of the epoch that a step of so many images belongs to."""
    return step * batch // (PASSES * 2 * recipe.epoch)


def _error(decoded: Tensor, x: Tensor) -> Tensor:
    return (decoded - x).abs().mean() + 2 * (decoded - x).square().mean()


def _size(mean: Tensor) -> Tensor:
    return 1e-3 * mean.square().mean()


def _autocast(device: str) -> torch.autocast:
    """bfloat16 where the device multiplies tiles in it; on processors with vectors alone it is slower."""
    fast = device != "cpu" or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device, torch.bfloat16, enabled=fast)


@torch.no_grad()
def _scale(vae: AutoencoderKL, pools: Pools, device: str) -> None:
    """Set the scaling factor: one over the standard deviation of the latents."""
    sample = torch.cat([pool.batch(torch.arange(len(pool.captions))[:256]) for pool in pools]).to(device)
    vae.register_to_config(scaling_factor=round(1 / vae.encode(sample).latent_dist.mean.std().item(), 5))


def _tokenizer(photographs: list[Photograph], folder: Path) -> CLIPTokenizer:
    if folder.exists():
        return CLIPTokenizer.from_pretrained(folder)
    captions = [caption for _, caption in photographs] + data.scenes(1000, 0).captions
    return train_tokenizer(captions, folder)


def read_arguments(description: str, steps: int) -> argparse.Namespace:
    """Of the commands that train something beside a finished model; the folder of checkpoints is made."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of the model in diffusers' layout")
    parser.add_argument("--packages", type=Path, required=True, help="folder of the unpacked Debian packages")
    parser.add_argument("--work", type=Path, default=Path("tiny-training"), help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of what was trained")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=steps)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


def main() -> None:
    """Train, or write a snapshot, as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=Path, required=True, help="folder of the unpacked Debian packages")
    parser.add_argument("--work", type=Path, default=Path("tiny-training"), help="folder of the checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--start", type=Path, help="folder of a snapshot to go on from without a checkpoint")
    parser.add_argument(
        "--snapshot", type=Path, help="write the averaged weights to this folder, train nothing"
    )
    for name in ("epoch", "linear_steps", "vae_steps", "decoder_steps", "unet_steps"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Recipe, name))
    arguments = parser.parse_args()
    recipe = Recipe(arguments.epoch, linear_steps=arguments.linear_steps, vae_steps=arguments.vae_steps,
                    decoder_steps=arguments.decoder_steps, unet_steps=arguments.unet_steps)  # fmt: skip
    run(recipe, arguments.packages, arguments.work, arguments.device, arguments.start, arguments.snapshot)


def run(
    recipe: Recipe, packages: Path, work: Path, device: str, start: Path | None, snapshot: Path | None
) -> None:
    """Train to the end of the recipe, or write a snapshot of the checkpoints in ``work``.

    Raises FileNotFoundError when a snapshot is asked for before the U-Net's first checkpoint.
    """
    if snapshot is not None and not (work / "unet.pt").exists():
        raise FileNotFoundError(
            f"no U-Net to write: {work / 'unet.pt'} is missing; train without --snapshot first"
        )
    photographs = training_photographs(packages)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(photographs, work / "tokenizer" if start is None else start / "tokenizer")
    torch.manual_seed(0)
    if start is None:
        vae = train_vae(recipe, photographs, work, device)
        unet, text, first_step = architecture.new_unet(), new_text_encoder(tokenizer), 0
    else:
        vae, unet, text = read_snapshot(start, device)
        first_step = trained_steps(start)
    if snapshot is None:
        train_unet(recipe, photographs, vae, text, unet, tokenizer, first_step, work, device)
        return
    training = _unet_training(recipe, unet, text, work)
    training.averaged()
    tokenizer.save_pretrained(snapshot / "tokenizer")
    save(snapshot, vae, unet, text, architecture.new_scheduler())
    save_progress(snapshot, training.step)


if __name__ == "__main__":
    main()
