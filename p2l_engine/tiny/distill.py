"""Distil the small model to a few steps: ``python -m p2l_engine.tiny.distill``.

Latent consistency distillation (Luo et al., 2023) into a low-rank adapter of the U-Net, as LCM-LoRA is for
Stable Diffusion: the student's clean latent is to be the same anywhere along the teacher's path to it.

| symbol | code | meaning |
|---|---|---|
| t, t' | t, before | a timestep of a grid of N, and the one before it, which for the first is no noise |
| f(z, t) | clean | the student's posterior mean z_0|t (Eq. 14), its consistency function |
| z_t' | z_before | the teacher's DDIM step (Eq. 15) from z_t |
| c | HUBER | of the pseudo-Huber distance, (|d|^2 + c^2)^1/2 - c |

The scalings by which a consistency function is the identity at t = 0 are left out: at the first timestep of
the grid they are 0 and 1 to a hundred-thousandth, and there the target is the clean latent itself.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import CLIPTokenizer

from p2l_engine.priors.lora import FILE
from p2l_engine.schedule import ddim_step
from p2l_engine.tiny import architecture
from p2l_engine.tiny.collection import Photograph, training_photographs
from p2l_engine.tiny.train import (
    Recipe,
    batch_of,
    epoch_of,
    latents_by_epoch,
    read_arguments,
    read_snapshot,
)
from p2l_engine.tiny.training import Training

HUBER = 0.03
RECIPE = Recipe(epoch=1024, unet_batch=16)


@dataclass(frozen=True)
class Distillation:
    """Sizes of the training. grid: N, as LCM-LoRA's; rank: of the adapter."""

    steps: int = 1_500
    learning_rate: float = 1e-3
    decay: float = 0.99
    grid: int = 50
    rank: int = 32


class LowRank(nn.Module):
    """B A of every matrix and kernel of a U-Net, in kohya's layout, which `p2l_engine.priors.lora` reads."""

    def __init__(self, unet: nn.Module, rank: int) -> None:
        super().__init__()
        self.paths: dict[str, str] = {}  # of the modules, by their names with _ for dots
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for path, module in unet.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            name, (out, *sides) = path.replace(".", "_"), module.weight.shape
            r = min(rank, out, sides[0])
            self.paths[name] = path
            self.down[name] = nn.Parameter(torch.randn(r, *sides) / math.prod(sides) ** 0.5)
            self.up[name] = nn.Parameter(torch.zeros(out, r, *(1 for _ in sides[1:])))

    def weights(self, unet: nn.Module) -> dict[str, Tensor]:
        """The weights of the U-Net with the adapter, by their names."""
        return {
            f"{path}.weight": weight + (self.up[name].flatten(1) @ self.down[name].flatten(1)).view_as(weight)
            for name, path in self.paths.items()
            for weight in [unet.get_parameter(f"{path}.weight")]
        }

    def save(self, folder: Path) -> None:
        """Write the file of the adapter, in half precision."""
        parts = {"lora_down": self.down, "lora_up": self.up}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {
                f"lora_unet_{name}.{part}.weight": parameter.detach().half().contiguous()
                for part, parameters in parts.items()
                for name, parameter in parameters.items()
            },
            folder / FILE,
        )


def distil(
    recipe: Recipe,
    distillation: Distillation,
    photographs: list[Photograph],
    model: Path,
    work: Path,
    device: str,
) -> LowRank:
    """The adapter for the U-Net of the model in a folder, averaged over its training."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    vae, unet, text = (part.eval().requires_grad_(False) for part in read_snapshot(model, device))
    unet.to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    adapter = LowRank(unet, distillation.rank).to(device)
    training = Training(
        {"adapter": adapter},
        distillation.learning_rate,
        distillation.steps,
        work / "adapter.pt",
        decay=distillation.decay,
    )
    latents = latents_by_epoch(recipe, photographs, vae, tokenizer, device)
    alpha_bar = torch.cat([architecture.new_scheduler().alphas_cumprod, torch.ones(1)])  # 1 before the first
    apart = (len(alpha_bar) - 1) // distillation.grid

    def predict(z: Tensor, t: Tensor, C: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """z_0|t and the noise, of the network's v."""
        v = functional_call(unet, weights, (z, t.clamp(0).to(device), C)).sample
        signal, noise = _shares(alpha_bar[t], z)
        return signal * z - noise * v, noise * z + signal * v

    def loss(step: int, generator: torch.Generator) -> Tensor:
        z, ids = batch_of(latents(epoch_of(recipe, step, recipe.unet_batch)), recipe, tokenizer, generator)
        C = text(ids.to(device)).last_hidden_state
        t = apart * torch.randint(1, distillation.grid + 1, (len(z),), generator=generator) - 1
        before = t - apart
        signal, noise = _shares(alpha_bar[t], z)
        drawn = torch.randn(z.shape, generator=generator)
        noised = (signal * z + noise * drawn).to(device, memory_format=torch.channels_last)
        weights = adapter.weights(unet)
        with torch.no_grad():
            z0, eps = predict(noised, t, C, {})
            z_before = ddim_step(z0, eps, alpha_bar[before].view(-1, 1, 1, 1).to(z0))
            target = predict(z_before, before, C, weights)[0]
        apart_by = (predict(noised, t, C, weights)[0] - target).flatten(1)
        return (apart_by.square().sum(dim=1) + HUBER**2).sqrt().sub(HUBER).mean()

    training.run(loss, "adapter")
    training.averaged()
    return adapter


def _shares(alpha_bar: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The square roots of the shares of signal and of noise, each (B, 1, 1, 1)."""
    a = alpha_bar.view(-1, 1, 1, 1).to(like)
    return a.sqrt(), (1 - a).sqrt()


def main() -> None:
    """Distil the model that the command line names."""
    arguments = read_arguments(str(__doc__), Distillation.steps)
    photographs = training_photographs(arguments.packages)
    sizes = Distillation(arguments.steps)
    distil(RECIPE, sizes, photographs, arguments.model, arguments.work, arguments.device).save(arguments.out)


if __name__ == "__main__":
    main()
