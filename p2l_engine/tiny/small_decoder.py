"""Train a small decoder for gradients: ``python -m p2l_engine.tiny.small_decoder MODEL``.

It imitates D(z) of the small model at a quarter of its cost. Its class is that of TAESD, which is
Stable Diffusion's; the encoder, which nothing here uses, is as small as can be.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import CLIPTokenizer

from p2l_engine.tiny.architecture import LATENT_CHANNELS
from p2l_engine.tiny.collection import Photograph, training_photographs
from p2l_engine.tiny.data import held_out_crops, held_out_scenes
from p2l_engine.tiny.train import (
    Recipe,
    batch_of,
    epoch_of,
    latents_by_epoch,
    read_arguments,
    read_snapshot,
)
from p2l_engine.tiny.training import Training, encode
from p2l_engine.tiny.yardstick import psnr

STEPS, LEARNING_RATE = 2_000, 2e-3
RECIPE = Recipe(epoch=1024, unet_batch=8)
LARGEST_NOISE = 0.5  # standard deviation of what is added to latents, so that it follows D beside them too


def new_small_decoder() -> AutoencoderTiny:
    """Of latents (B, 12, h, w) as the U-Net has them, to images (B, 3, 4 h, 4 w)."""
    return AutoencoderTiny(
        encoder_block_out_channels=(4, 4, 4),
        num_encoder_blocks=(1, 1, 1),
        decoder_block_out_channels=(24, 24, 24),
        num_decoder_blocks=(2, 1, 1),
        latent_channels=LATENT_CHANNELS,
    )


def train(
    recipe: Recipe, photographs: list[Photograph], model: Path, work: Path, device: str, steps: int = STEPS
) -> AutoencoderTiny:
    """A decoder that imitates that of the model in a folder."""
    vae, _, _ = read_snapshot(model, device)
    torch.manual_seed(0)
    small = new_small_decoder().to(device, memory_format=torch.channels_last)
    training = Training({"small": small.decoder}, LEARNING_RATE, steps, work / "small_decoder.pt")
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    latents = latents_by_epoch(recipe, photographs, vae, tokenizer, device)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        z, _ = batch_of(latents(epoch_of(recipe, step, recipe.unet_batch)), recipe, tokenizer, generator)
        strength = LARGEST_NOISE * torch.rand(len(z), 1, 1, 1, generator=generator)
        z = (z + strength * torch.randn(z.shape, generator=generator)).to(device)
        return mse_loss(small.decode(z).sample, decoded(vae, z))

    training.run(loss, "small decoder")
    training.averaged()
    return small


@torch.no_grad()
def decoded(vae: AutoencoderKL, z: Tensor) -> Tensor:
    """D(z) of scaled latents."""
    image: Tensor = vae.decode(z / vae.config.scaling_factor).sample
    return image


@torch.no_grad()
def print_figures(model: Path, small: AutoencoderTiny, device: str) -> None:
    """Print how near it comes to D, and to the images: crops of tuning photographs, and drawn scenes."""
    vae, _, _ = read_snapshot(model, device)
    for kind, pool in (("crops", held_out_crops("tuning")), ("scenes", held_out_scenes())):
        x = pool.batch(torch.arange(len(pool.captions)))
        z = encode(vae, pool, device)
        sketch, whole = small.decode(z.to(device)).sample.cpu(), decoded(vae, z.to(device)).cpu()
        print(f"{kind}: against D(E(x)) {psnr(whole, sketch):.2f} dB, against x {psnr(x, sketch):.2f} dB, "
              f"D(E(x)) itself {psnr(x, whole):.2f} dB")  # fmt: skip


def main() -> None:
    """Train it for the model that the command line names."""
    given = read_arguments(str(__doc__), STEPS)
    photographs = training_photographs(given.packages)
    small = train(RECIPE, photographs, given.model, given.work, given.device, given.steps)
    print_figures(given.model, small, given.device)
    small.cpu().half().save_pretrained(given.out)
    config = json.loads((given.out / "config.json").read_text())
    del config["block_out_channels"]  # which diffusers writes, and warns of when it reads it
    (given.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
