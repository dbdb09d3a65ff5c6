"""Train the small pixel-domain model: ``python -m p2l_engine.tiny.pixel.train``.

A checkpoint is saved every two minutes, and the same command goes on from it. ``--snapshot`` trains nothing:
it writes the averaged weights of the checkpoint as a diffusers folder, in half precision, and prints the
model's figures on images that training never saw. ``--start`` goes on from the shipped weights where there
is no checkpoint.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from numpy.typing import NDArray
from torch import Tensor

from p2l_engine.priors.fetch import trained_steps
from p2l_engine.tiny import data
from p2l_engine.tiny.collection import training_photographs
from p2l_engine.tiny.training import Training, random_crops, save_progress

WEIGHTS = Path(__file__).parent / "weights"
WARM_UP = 50  # steps
ANNEALED = 0.25  # of the training, in which the learning rate goes down to nought


@dataclass(frozen=True)
class Recipe:
    """Sizes of the training; half of every batch are drawn scenes, half crops of photographs."""

    images: int = 4_000  # scenes, and as many crops
    steps: int = 24_000
    batch: int = 8
    squares: int = 8_000  # so many steps see a square of 32x32 pixels of each image, in a quarter of the time
    learning_rate: float = 1e-3
    decay: float = 0.998


def new_unet() -> UNet2DModel:
    """A U-Net on 64x64 pixels: thin where there are many, with attention where there are 8x8.

    It begins with v = 0, as do its blocks with what they add: at little noise a good guess already.
    """
    unet = UNet2DModel(
        sample_size=64,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=16,
        norm_num_groups=8,
    )
    last = [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    for convolution in (*last, unet.conv_out):
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    return unet


def new_scheduler() -> DDPMScheduler:
    """The noise schedule of DDPM and ADM; the network predicts v, whose error is bounded at every noise."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        prediction_type="v_prediction",
    )


def draw_images(recipe: Recipe, work: Path, packages: Path) -> NDArray[np.uint8]:
    """Scenes and crops of photographs, (2, N, 64, 64, 3); kept beside the checkpoint."""
    kept = work / "images.npy"
    if not kept.exists():
        print("drawing scenes and cropping photographs", flush=True)
        pools = data.epoch(training_photographs(packages), recipe.images, 0)
        np.save(kept, np.stack([pool.images for pool in pools]))
    drawn: NDArray[np.uint8] = np.load(kept)
    return drawn


def train(
    recipe: Recipe, images: NDArray[np.uint8], unet: UNet2DModel, training: Training, device: str
) -> None:
    """The squared error of v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 at timesteps drawn evenly."""
    alpha_bar = new_scheduler().alphas_cumprod

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(images.shape[1], (2, recipe.batch // 2), generator=generator).numpy()
        x = torch.cat([data.to_tensor(of[index]) for of, index in zip(images, chosen, strict=True)])
        x = random_crops(x, 32, generator) if step < recipe.squares else x
        t = torch.randint(len(alpha_bar), (len(x),), generator=generator)
        noisy, velocity = _noised(x, alpha_bar[t].view(-1, 1, 1, 1), generator)
        predicted = unet(noisy.to(device, memory_format=torch.channels_last), t.to(device)).sample
        return (predicted - velocity.to(device)).square().mean()

    training.run(loss, "unet")


@torch.no_grad()
def print_denoising(unet: UNet2DModel) -> None:
    """Mean squared error of the clean image, predicted from noisy held-out scenes and crops."""
    alpha_bar, device = new_scheduler().alphas_cumprod, next(unet.parameters()).device
    for name, pool in (("scenes", data.held_out_scenes()), ("crops", data.held_out_crops("test"))):
        x = pool.batch(torch.arange(len(pool.captions)))
        for t in (50, 100, 300, 500, 700, 900):
            a = alpha_bar[t]
            noisy, _ = _noised(x, a, torch.Generator().manual_seed(0))
            velocity = unet(noisy.to(device), t).sample.cpu()
            error = (a.sqrt() * noisy - (1 - a).sqrt() * velocity - x).square().mean()
            print(f"held-out {name} from their noised at t = {t}: squared error {error:.5f}", flush=True)


def _noised(x: Tensor, alpha_bar: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x_t and v of clean images."""
    noise = torch.randn(x.shape, generator=generator)
    signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return signal * x + spread * noise, signal * noise - spread * x


def save(folder: Path, unet: UNet2DModel, step: int) -> None:
    """Write a diffusers folder, in half precision, and how far the training is."""
    unet.cpu().half().save_pretrained(folder / "unet")
    new_scheduler().save_pretrained(folder / "scheduler")
    save_progress(folder, step)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the finished model")
    parser.add_argument("--work", type=Path, default=Path("tiny-pixel-training"), help="of the checkpoint")
    parser.add_argument("--start", action="store_true", help="go on from the shipped weights")
    parser.add_argument(
        "--snapshot", action="store_true", help="write the checkpoint's average, train nothing"
    )
    parser.add_argument("--measure", action="store_true", help="print the shipped weights' errors, no more")
    parser.add_argument("--packages", type=Path, help="folder of the unpacked Debian packages, to train")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--images", type=int, default=Recipe.images, help="scenes, and as many crops")
    arguments = parser.parse_args()
    if arguments.measure:
        print_denoising(UNet2DModel.from_pretrained(WEIGHTS, subfolder="unet").float())
        return
    checkpoint = arguments.work / "unet.pt"
    if arguments.snapshot and not checkpoint.exists():
        parser.error(f"--snapshot: there is no checkpoint {checkpoint}")
    if not arguments.snapshot and arguments.packages is None:
        parser.error("--packages: training draws photographs from the packages in that folder")
    recipe = Recipe(images=arguments.images, steps=arguments.steps)
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    unet = new_unet()
    if arguments.start:
        unet.load_state_dict(UNet2DModel.from_pretrained(WEIGHTS, subfolder="unet").state_dict())
    unet = unet.to(arguments.device, memory_format=torch.channels_last)
    training = Training(
        {"unet": unet},
        recipe.learning_rate,
        recipe.steps,
        checkpoint,
        share=lambda progress: min(1.0, progress * recipe.steps / WARM_UP, (1 - progress) / ANNEALED),
        decay=recipe.decay,
    )
    if arguments.start and not checkpoint.exists():
        training.step = trained_steps(WEIGHTS)
    if not arguments.snapshot:
        images = draw_images(recipe, arguments.work, arguments.packages)
        train(recipe, images, unet, training, arguments.device)
    training.averaged()
    print_denoising(unet)
    save(arguments.out, unet, training.step)


if __name__ == "__main__":
    main()
