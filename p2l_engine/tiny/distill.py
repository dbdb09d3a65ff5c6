"""Distil the small model to a few steps: ``python -m p2l_engine.tiny.distill``.

A low-rank adapter of the U-Net, as LCM-LoRA is for Stable Diffusion, by which the clean latent is the same
anywhere along the teacher's path to it. The teacher walks its paths to their ends first, from noised data of
any timestep of a grid, and each of a path's points is an example: where consistency distillation (Luo et al.,
2023) learns from its own estimate a step further, and so must carry the end up through the whole grid, this
learns from the end.

| symbol | code | meaning |
|---|---|---|
| z_t | Points.z | a point of a path: after the teacher's DDIM steps (Eq. 15) from where it begins |
| z_0 | Points.end | the path's end, without noise |
| z_0|t | clean | posterior mean by the network's v (Eq. 14), for the student a sample |
| c | HUBER | of the pseudo-Huber distance, (|d|^2 + c^2)^1/2 - c |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

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
    latents_by_epoch,
    read_arguments,
    read_snapshot,
)
from p2l_engine.tiny.training import Training

HUBER = 0.03
RECIPE = Recipe(epoch=512, unet_batch=16)
UNSEEN, MEASURED = 1_000_000, 64  # an epoch that no training comes to, and of its points at each timestep
PASSES = 2  # over the points of an epoch before other paths are walked


@dataclass(frozen=True)
class Distillation:
    """Sizes of the training. grid: timesteps of a path; rank: of the adapter."""

    steps: int = 3_328
    learning_rate: float = 4e-4
    decay: float = 0.99
    grid: int = 25
    rank: int = 32


# Of z, t, tokens and the U-Net's weights other than its own, z_0|t and the noise.
Clean = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor]], tuple[Tensor, Tensor]]


class Points(NamedTuple):
    """Points z (N, C, h, w) of paths, timesteps t (N,), tokens of captions (N, L), ends (N, C, h, w)."""

    z: Tensor
    t: Tensor
    ids: Tensor
    end: Tensor


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
    alpha_bar = architecture.new_scheduler().alphas_cumprod

    def clean(z: Tensor, t: Tensor, ids: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """z_0|t and the noise."""
        z = z.to(device, memory_format=torch.channels_last)
        C = text(ids.to(device)).last_hidden_state
        v = functional_call(unet, weights, (z, t.to(device), C)).sample
        signal, noise = _shares(alpha_bar[t], z)
        return signal * z - noise * v, noise * z + signal * v

    @lru_cache(maxsize=1)
    @torch.no_grad()
    def points(epoch: int) -> Points:
        drawn = torch.Generator().manual_seed(epoch)
        batches = 2 * recipe.epoch // recipe.unet_batch
        walked = [walk(*batch_of(latents(epoch), recipe, tokenizer, drawn), drawn) for _ in range(batches)]
        return Points(*(torch.cat(parts) for parts in zip(*walked, strict=True)))

    def walk(z: Tensor, ids: Tensor, generator: torch.Generator) -> Points:
        """The points of a path from each latent z, which is noised to a timestep of the grid first."""
        apart = len(alpha_bar) // distillation.grid
        begins = torch.randint(1, distillation.grid + 1, (len(z),), generator=generator)
        signal, noise = _shares(alpha_bar[apart * begins - 1], z)
        z = signal * z + noise * torch.randn(z.shape, generator=generator)
        passed = []
        for place in range(int(begins.max()), 0, -1):
            there = (begins >= place).nonzero()[:, 0]
            t = torch.full_like(there, apart * place - 1)
            passed.append((z[there], t, there))
            z0, eps = clean(z[there], t, ids[there], {})
            after = alpha_bar[apart * (place - 1) - 1].item() if place > 1 else 1.0
            z = z.index_copy(0, there, ddim_step(z0, eps, after).to(z))
        points, t, paths = (torch.cat(parts) for parts in zip(*passed, strict=True))
        return Points(points, t, ids[paths], z[paths])

    def loss(step: int, generator: torch.Generator) -> Tensor:
        expected = recipe.epoch * (distillation.grid + 1)  # points of an epoch
        pool = points(step * recipe.unet_batch // (PASSES * expected))
        index = torch.randint(len(pool.t), (recipe.unet_batch,), generator=generator)
        z, t, ids, end = (part[index] for part in pool)
        off = (clean(z, t, ids, adapter.weights(unet))[0] - end.to(device)).flatten(1)
        return (off.square().sum(dim=1) + HUBER**2).sqrt().sub(HUBER).mean()

    training.run(loss, "adapter")
    training.averaged()
    _print_figures(points(UNSEEN), clean, {"the teacher": {}, "the student": adapter.weights(unet)})
    return adapter


@torch.no_grad()
def _print_figures(pool: Points, clean: Clean, networks: dict[str, dict[str, Tensor]]) -> None:
    """How far z_0|t is from the paths' ends, root mean squares, at every fifth timestep of the grid."""
    for t in pool.t.unique().tolist()[4::5]:
        index = (pool.t == t).nonzero()[:MEASURED, 0]
        z, times, ids, end = (part[index] for part in pool)
        off = {
            name: (clean(z, times, ids, weights)[0].cpu() - end).square().mean().sqrt()
            for name, weights in networks.items()
        }
        print(f"t = {t}: " + ", ".join(f"{name} {error:.3f}" for name, error in off.items()))


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
