"""What the recipes share: a training that an interruption does not end, batches, the files of a model."""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from transformers import CLIPTextModel, CLIPTokenizer

from p2l_engine.priors.fetch import TRAINING
from p2l_engine.tiny import architecture
from p2l_engine.tiny.data import Pool

SAVE_EVERY = 120.0  # seconds
EMA_DECAY = 0.998


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
            state = torch.load(path, weights_only=True, map_location="cpu")
            for name, module in modules.items():
                module.load_state_dict(state["modules"][name])
                for key, value in state["average"][name].items():
                    self.average[name][key].copy_(value)
            self.step = state["step"]
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


def draw(pool: Pool, count: int, generator: torch.Generator) -> Tensor:
    """Indices (count,) of images of the pool, with repetition."""
    return torch.randint(len(pool.captions), (count,), generator=generator)


def random_crops(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A random square (B, C, side, side) of each image (B, C, H, W)."""
    places = torch.randint(x.shape[-1] - side + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack(
        [image[:, i : i + side, j : j + side] for image, (i, j) in zip(x, places, strict=True)]
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, pool: Pool, device: str, reduced: int = 1) -> Tensor:
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


def save_progress(folder: Path, step: int) -> None:
    """Write beside the weights how far the training is."""
    (folder / TRAINING).write_text(json.dumps({"step": step}) + "\n")
