"""Train the small captioner: ``python -m p2l_engine.tiny.train_captioner``.

It learns to say what is on drawn scenes and photographs, whole and as measurements show them, with the words
of the shipped model's tokenizer. A checkpoint is saved every two minutes, and the same command goes on from
it. The folder is written in transformers' layout, in half precision.
"""

import argparse
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPTokenizer,
    GPT2Config,
    SegformerConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTImageProcessorPil,
)

from p2l_engine import metrics, operators
from p2l_engine.priors.captioner import TOKENS, Captioner, load_captioner
from p2l_engine.priors.fetch import CAPTIONER, beside_tiny, local_folder
from p2l_engine.seeding import generator
from p2l_engine.tiny import data
from p2l_engine.tiny.collection import Photograph, training_photographs
from p2l_engine.tiny.training import Training, draw, save_progress, token_ids

STEPS = 5_500
EPOCH = 4_800  # scenes that are drawn together, and as many crops
SCENES, CROPS = 36, 12  # of a batch
LEARNING_RATE = 1.5e-3
WIDTH = 160
NOISE = 0.01
IGNORED = -100  # a target that transformers leaves out of the loss

# Every second step sees whole images, the others what each of these operators makes of them, in turn.
DEGRADATIONS: tuple[dict[str, Any], ...] = (
    {"name": "super_resolution", "factor": 8},
    {"name": "super_resolution", "factor": 4},
    {"name": "gaussian_blur", "size": 61, "sigma": 3.0},
    {"name": "motion_blur", "size": 31, "intensity": 0.5},
    {"name": "inpainting", "mask": "free_form", "fraction": "10-20%"},
    {"name": "inpainting", "mask": "random", "fraction": 0.8},
)


def new_captioner(tokenizer: CLIPTokenizer) -> VisionEncoderDecoderModel:
    """A SegFormer, whose convolutions see textures, down to 8x8 places, and a GPT-2 that attends to those."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = SegformerConfig(
        num_encoder_blocks=3,
        depths=[1, 1, 2],
        hidden_sizes=[24, 64, WIDTH],
        hidden_size=WIDTH,  # where the whole looks for the last of them
        mlp_ratios=[2, 2, 4],
        num_attention_heads=[1, 2, 4],
        sr_ratios=[8, 2, 1],
        patch_sizes=[3, 3, 3],
        strides=[2, 2, 2],
        drop_path_rate=0.0,
        reshape_last_stage=False,
    )
    text = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=WIDTH,
        n_layer=3,
        n_head=4,
        n_positions=1 + TOKENS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        add_cross_attention=True,
        **special,
    )
    return VisionEncoderDecoderModel(
        VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            vision, text, decoder_start_token_id=tokenizer.bos_token_id, **special
        )
    )


def seen(x: Tensor, degradation: dict[str, Any] | None, seed: int) -> Tensor:
    """(B, 3, 64, 64) in [-1, 1]: images, or their measurements as pictures of the network's size.

    As a run shows a captioner a measurement (`from: measurement`), and its image processor resizes it.
    """
    if degradation is None:
        return x
    sources = [generator(seed + i, "operator") for i in range(len(x))]
    operator = operators.build(**degradation, generators=sources, image_shape=tuple(x.shape[1:]))
    y = operator.measure(x, NOISE, [generator(seed + i, "noise") for i in range(len(x))])
    return F.interpolate(y.clamp(-1, 1), size=x.shape[-2:], mode="bilinear", antialias=True)


def targets(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(B, 23): each caption's tokens after the first, up to its end."""
    tokens = token_ids(tokenizer, captions)[:, 1:]
    after_end = (tokens == tokenizer.eos_token_id).cumsum(dim=1) > 1
    return tokens.masked_fill(after_end, IGNORED)


def train(
    photographs: Sequence[Photograph], tokenizer: CLIPTokenizer, steps: int, work: Path
) -> VisionEncoderDecoderModel:
    """The captioner, from random weights; a checkpoint in ``work`` is gone on from."""
    torch.manual_seed(0)
    network = new_captioner(tokenizer)
    training = Training({"captioner": network}, LEARNING_RATE, steps, work / "captioner.pt")
    epoch = lru_cache(1)(lambda index: data.epoch(photographs, EPOCH, index))

    def loss(step: int, generator: torch.Generator) -> Tensor:
        pools = epoch(step * SCENES // EPOCH)
        chosen = [draw(pool, count, generator) for pool, count in zip(pools, (SCENES, CROPS), strict=True)]
        x = torch.cat([pool.batch(indices) for pool, indices in zip(pools, chosen, strict=True)])
        captions = [pool.captions[i] for pool, indices in zip(pools, chosen, strict=True) for i in indices]
        degradation = None if step % 2 else DEGRADATIONS[step // 2 % len(DEGRADATIONS)]
        pictures = seen(x, degradation, step * len(x))
        value: Tensor = network(pixel_values=pictures, labels=targets(tokenizer, captions)).loss
        return value

    training.run(loss, "captioner")
    training.averaged()
    return network


def print_figures(captioner: Captioner) -> None:
    """How many words of held-out scenes' captions, and whole ones, are told right, by what is seen."""
    pool = data.held_out_scenes()
    x = pool.batch(torch.arange(len(pool.captions)))
    for degradation in (None, *DEGRADATIONS):
        pictures = [metrics.to_uint8(image) for image in seen(x, degradation, data.HELD_OUT_SEED)]
        told = captioner(pictures)
        words = np.mean([agreement(text, right) for text, right in zip(told, pool.captions, strict=True)])
        whole = np.mean([text == right for text, right in zip(told, pool.captions, strict=True)])
        title = " ".join(str(value) for value in (degradation or {"name": "whole"}).values())
        print(f"{title}: {words:.0%} of words, {whole:.0%} of captions", flush=True)


def agreement(told: str, right: str) -> float:
    """The part of words that stand where they belong, of the shape and of the ground apart."""
    pairs = zip(_halves(told), _halves(right), strict=True)
    same = [(sum(a == b for a, b in zip(mine, own, strict=False)), len(own)) for mine, own in pairs]
    return sum(count for count, _ in same) / sum(of for _, of in same)


def _halves(caption: str) -> tuple[list[str], list[str]]:
    shape, _, ground = caption.partition(" on ")
    return shape.split(), ground.split()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--out", type=Path, default=local_folder(CAPTIONER), help="folder of the captioner")
    parser.add_argument("--work", type=Path, default=Path("tiny-training"), help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(beside_tiny("tokenizer"))
    network = train(training_photographs(arguments.packages), tokenizer, arguments.steps, arguments.work)
    network.half().save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    size = {"height": data.SIDE, "width": data.SIDE}
    ViTImageProcessorPil(size=size).save_pretrained(arguments.out)
    save_progress(arguments.out, arguments.steps)
    print_figures(load_captioner(str(arguments.out)))


if __name__ == "__main__":
    main()
