"""Train the small latent diffusion model: ``python -m p2l_engine.tiny.train``.

Two stages: the auto-encoder, then the U-Net with its text encoder on the auto-encoder's latents. Each saves
a checkpoint every two minutes and goes on from it when the command is given again. At the end the model is
written in diffusers' layout, in half precision, and its figures on held-out images are printed.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from transformers import CLIPTextModel, CLIPTokenizer

from p2l_engine.tiny import architecture, data
from p2l_engine.tiny.evaluate import print_autoencoding, print_denoising
from p2l_engine.tiny.photographs import MATE_FOLDER

WEIGHTS = Path(__file__).parent / "weights"
SAVE_EVERY = 120.0  # seconds
EMA_DECAY = 0.998
CAPTIONS_DROPPED = 0.15


@dataclass(frozen=True)
class Recipe:
    """Sizes of the training; the defaults are those of the shipped model."""

    scenes: int = 24_000
    crops: int = 16_000
    vae_steps: int = 4_900
    vae_learning_rate: float = 2e-3
    vae_whole_images: float = 0.15  # the last share of the steps sees whole images instead of 32x32 crops
    unet_steps: int = 2_400
    unet_learning_rate: float = 1.2e-3
    unet_batch: tuple[int, int] = (24, 8)  # scenes, crops of photographs


class Training:
    """Parameters, their moving average, the optimiser and the step, saved and found again in one file."""

    def __init__(
        self,
        modules: dict[str, nn.Module],
        learning_rate: float,
        steps: int,
        path: Path,
        share: Callable[[float], float] | None = None,
        decay: float = EMA_DECAY,
    ) -> None:
        """``share``: the part of the learning rate at a progress in [0, 1]; if None, annealed to nought."""
        self.modules, self.steps, self.path = modules, steps, path
        self.share, self.decay = share or _annealed, decay
        self.average = {name: _clone(module) for name, module in modules.items()}
        parameters = [p for module in modules.values() for p in module.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-3, fused=True)
        self.learning_rate, self.step = learning_rate, 0
        if path.exists():
            state = torch.load(path, weights_only=True)
            for name, module in modules.items():
                module.load_state_dict(state["modules"][name])
            self.average, self.step = state["average"], state["step"]
            self.optimiser.load_state_dict(state["optimiser"])

    def run(self, loss: Callable[[int, torch.Generator], Tensor], name: str) -> None:
        """Descend ``loss(step, generator)`` to the last step; the generator depends on the step alone."""
        saved = started = time.monotonic()
        first, mean = self.step, 0.0
        while self.step < self.steps:
            value = loss(self.step, torch.Generator().manual_seed(self.step))
            self._descend(value)
            mean = value.item() if self.step == first else 0.98 * mean + 0.02 * value.item()
            self.step += 1
            if time.monotonic() - saved > SAVE_EVERY or self.step == self.steps:
                saved = time.monotonic()
                self._save()
                pace = (saved - started) / (self.step - first)
                print(f"{name} step {self.step}/{self.steps}  loss {mean:.4f}  {pace:.3f} s/step", flush=True)

    def averaged(self) -> dict[str, nn.Module]:
        """The modules with their averaged parameters."""
        for name, module in self.modules.items():
            module.load_state_dict(self.average[name])
            module.eval().requires_grad_(False)
        return self.modules

    def _descend(self, value: Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * self.share(self.step / self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_((p for group in self.optimiser.param_groups for p in group["params"]), 1.0)
        self.optimiser.step()
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, module in self.modules.items():
                for key, value in module.state_dict().items():
                    kept = self.average[name][key]
                    kept.lerp_(value, 1 - decay) if kept.is_floating_point() else kept.copy_(value)

    def _save(self) -> None:
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        unfinished = self.path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.path)


def _clone(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def _annealed(progress: float) -> float:
    """A short linear rise, then half a cosine to nought."""
    return min(1.0, progress / 0.02) * 0.5 * (1 + math.cos(math.pi * progress))


def train_vae(recipe: Recipe, pools: tuple[data.Pool, data.Pool], work: Path, device: str) -> AutoencoderKL:
    """The auto-encoder: absolute and squared error of images, half scenes and half photographs."""
    torch.manual_seed(0)
    vae = architecture.new_vae().to(device, memory_format=torch.channels_last)
    training = Training({"vae": vae}, recipe.vae_learning_rate, recipe.vae_steps, work / "vae.pt")

    def loss(step: int, generator: torch.Generator) -> Tensor:
        whole = step >= (1 - recipe.vae_whole_images) * recipe.vae_steps
        half = 4 if whole else 12
        x = torch.cat([pool.batch(draw(pool, half, generator)) for pool in pools])
        x = (x if whole else random_crops(x, 32, generator)).to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            mean = vae.encode(x).latent_dist.mean
            noise = torch.randn(mean.shape, generator=generator).to(device)
            error = vae.decode(mean + architecture.LATENT_NOISE * noise).sample.float() - x
        return error.abs().mean() + 2 * error.square().mean() + 1e-3 * mean.float().square().mean()

    training.run(loss, "vae")
    training.averaged()
    with torch.no_grad():
        sample = torch.cat([pool.batch(torch.arange(len(pool.captions))[:256]) for pool in pools]).to(device)
        vae.register_to_config(scaling_factor=round(1 / vae.encode(sample).latent_dist.mean.std().item(), 5))
    return vae


def train_unet(
    recipe: Recipe,
    pools: tuple[data.Pool, data.Pool],
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    work: Path,
    device: str,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The U-Net and its text encoder: weighted noise prediction, some captions dropped for the empty one."""
    torch.manual_seed(0)
    unet = architecture.new_unet().to(device, memory_format=torch.channels_last)
    text = architecture.new_text_encoder(tokenizer).to(device)
    training = Training(
        {"unet": unet, "text": text}, recipe.unet_learning_rate, recipe.unet_steps, work / "unet.pt"
    )
    latents = [encode(vae, pool, device) for pool in pools]
    tokens = [token_ids(tokenizer, pool.captions) for pool in pools]
    empty = token_ids(tokenizer, [""])[0]
    alpha_bar = DDIMScheduler.from_config(architecture.new_scheduler().config).alphas_cumprod

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = [draw(pool, n, generator) for pool, n in zip(pools, recipe.unet_batch, strict=True)]
        z = torch.cat([part[index] for part, index in zip(latents, chosen, strict=True)])
        ids = torch.cat([part[index] for part, index in zip(tokens, chosen, strict=True)])
        dropped = torch.rand(len(z), generator=generator) < CAPTIONS_DROPPED
        ids[dropped] = empty
        t = torch.randint(1000, (len(z),), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * z + (1 - a).sqrt() * noise).to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            embedding = text(ids.to(device)).last_hidden_state
            predicted = unet(noisy, t.to(device), embedding).sample.float()
        weight = ((1 - a) / a).clamp(0.2, 25).sqrt().to(device)
        return (weight * (predicted - noise.to(device)).square()).mean()

    training.run(loss, "unet")
    training.averaged()
    return unet, text


def draw(pool: data.Pool, count: int, generator: torch.Generator) -> Tensor:
    """Indices (count,) of images of the pool, with repetition."""
    return torch.randint(len(pool.captions), (count,), generator=generator)


def random_crops(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A random square (B, C, side, side) of each image (B, C, H, W)."""
    places = torch.randint(x.shape[-1] - side + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack(
        [image[:, i : i + side, j : j + side] for image, (i, j) in zip(x, places, strict=True)]
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, pool: data.Pool, device: str, reduced: int = 1) -> Tensor:
    """The pool's images, reduced by averaging, as scaled latents (N, C, h, w), the posterior's mean."""
    batches: Iterator[Tensor] = iter(torch.arange(len(pool.captions)).split(100))
    return vae.config.scaling_factor * torch.cat(
        [
            vae.encode(avg_pool2d(pool.batch(index), reduced).to(device)).latent_dist.mean.cpu()
            for index in batches
        ]
    )


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token numbers (N, 24) of the captions, padded or cut."""
    encoded = tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=architecture.TEXT_LENGTH,
        return_tensors="pt",
    )
    return encoded.input_ids


def save(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    scheduler: DDIMScheduler,
) -> None:
    """Write the parts in diffusers' layout, half precision; the tokenizer stands in the folder already."""
    for name, module in (("vae", vae), ("unet", unet), ("text_encoder", text)):
        module.cpu().half().save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path("tiny-training"), help="folder of the checkpoints")
    parser.add_argument("--mate-photographs", type=Path, default=MATE_FOLDER)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vae-steps", type=int, default=Recipe.vae_steps)
    parser.add_argument("--unet-steps", type=int, default=Recipe.unet_steps)
    parser.add_argument("--images", type=int, help="use so many scenes and so many crops (for a quick trial)")
    arguments = parser.parse_args()
    recipe = Recipe(
        scenes=arguments.images or Recipe.scenes,
        crops=arguments.images or Recipe.crops,
        vae_steps=arguments.vae_steps,
        unet_steps=arguments.unet_steps,
    )
    arguments.work.mkdir(parents=True, exist_ok=True)
    print("drawing scenes and cropping photographs", flush=True)
    pools = (data.scenes(recipe.scenes, 0), data.training_crops(recipe.crops, 0, arguments.mate_photographs))
    tokenizer = architecture.train_tokenizer(
        (caption for pool in pools for caption in pool.captions), arguments.out / "tokenizer"
    )
    vae = train_vae(recipe, pools, arguments.work, arguments.device)
    print_autoencoding(vae)
    unet, text = train_unet(recipe, pools, vae, tokenizer, arguments.work, arguments.device)
    print_denoising(vae, unet, text, tokenizer)
    save(arguments.out, vae, unet, text, architecture.new_scheduler())


if __name__ == "__main__":
    main()
