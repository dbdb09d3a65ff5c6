"""The small model's four parts, of the same classes as Stable Diffusion's."""

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LATENT_CHANNELS = 6
LATENT_NOISE = 0.05  # standard deviation of the encoder's posterior, before the scaling factor
TEXT_LENGTH = 24  # tokens
TEXT_WIDTH = 128
START, END = "<|startoftext|>", "<|endoftext|>"


def new_vae(
    channels: int = LATENT_CHANNELS, widths: tuple[int, int, int] = (24, 48, 96), groups: int = 8
) -> AutoencoderKL:
    """An auto-encoder: so many latent channels, a quarter of the side, a posterior of constant variance."""
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=groups,
        mid_block_add_attention=False,
        latent_channels=channels,
        sample_size=64,
    )
    with torch.no_grad():
        vae.quant_conv.weight[channels:] = 0
        vae.quant_conv.bias[channels:] = 2 * torch.tensor(LATENT_NOISE).log()
    return vae


def new_unet() -> UNet2DConditionModel:
    """A U-Net on 16x16 latents with cross-attention to the text at its two finer levels and in the middle."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder of two layers over the words of the captions."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def train_tokenizer(captions: Iterable[str], folder: Path, vocabulary: int = 400) -> CLIPTokenizer:
    """Learn a byte-pair encoding with CLIP's conventions from the captions and save it in ``folder``."""
    bpe = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.decoder = decoders.BPEDecoder(suffix="</w>")
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-()")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        end_of_word_suffix="</w>",
        special_tokens=[START, END],
        initial_alphabet=letters,
    )
    bpe.train_from_iterator([*captions, *(f"{letter} a{letter}" for letter in letters)], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=TEXT_LENGTH
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
