"""Train the small CLIP image tower: ``python -m p2l_engine.tiny.train_tower``.

It learns to tell drawn scenes by their captions, in the space of the shipped model's text encoder, whose
weights stay as they are: what is compared is a scene's vector with the mean of its caption's hidden states,
as adaptive negation compares them. The folder is written in transformers' layout, in half precision.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from p2l_engine import LatentDiffusion, load_model
from p2l_engine.priors.fetch import beside_tiny
from p2l_engine.priors.image_tower import SHIPPED, ImageTower
from p2l_engine.tiny import architecture, data
from p2l_engine.tiny.training import Training

SCENES = 6_000
STEPS = 1_000
BATCH = 64
LEARNING_RATE = 1e-3


def new_tower() -> CLIPVisionModelWithProjection:
    """A vision transformer of three layers on patches of 8x8 pixels."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            projection_dim=architecture.TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
        )
    )


class Contrast(nn.Module):
    """The tower with the temperature of its contrast, which only training needs."""

    def __init__(self, tower: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.tower, self.scale = tower, nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor, captions: Tensor) -> Tensor:
        """Mean cross-entropy of telling which of B captions (B, D) is that of which image (B, 3, 64, 64)."""
        scores = self.scale.exp() * ImageTower(self.tower)(x) @ captions.T
        right = torch.arange(len(x))
        return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def caption_vectors(model: LatentDiffusion, captions: list[str]) -> Tensor:
    """(N, D): the mean of each caption's hidden states over its tokens."""
    parts = [captions[first : first + 500] for first in range(0, len(captions), 500)]
    return torch.cat([model.embed_prompts(part).mean(dim=1) for part in parts])


def train(model: LatentDiffusion, scenes: int, steps: int, work: Path) -> CLIPVisionModelWithProjection:
    """The tower, from random weights; a checkpoint in ``work`` is gone on from."""
    torch.manual_seed(0)
    pool = data.scenes(scenes, 0)
    vectors = caption_vectors(model, pool.captions)
    contrast = Contrast(new_tower())
    training = Training({"contrast": contrast}, LEARNING_RATE, steps, work / "tower.pt")

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(scenes, (BATCH,), generator=generator)
        return contrast(pool.batch(chosen), vectors[chosen])

    training.run(loss, "tower")
    training.averaged()
    return contrast.tower


@torch.no_grad()
def print_retrieval(tower: ImageTower, model: LatentDiffusion) -> None:
    """How often a held-out scene is told its own caption of all, and its caption against another."""
    pool = data.held_out_scenes()
    count = len(pool.captions)
    scores = tower(pool.batch(torch.arange(count))) @ caption_vectors(model, pool.captions).T
    first = (scores.argmax(dim=1) == torch.arange(count)).float().mean()
    above = (scores.diag()[:, None] > scores).float().sum() / (count * (count - 1))
    print(f"held-out scenes: {first:.0%} told of {count} captions, {above:.1%} of pairs", flush=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=beside_tiny(SHIPPED), help="folder of the finished tower")
    parser.add_argument("--work", type=Path, default=Path("tiny-training"), help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--scenes", type=int, default=SCENES)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = load_model("tiny")
    tower = train(model, arguments.scenes, arguments.steps, arguments.work)
    print_retrieval(ImageTower(tower), model)
    tower.half().save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
