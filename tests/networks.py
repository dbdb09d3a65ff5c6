"""Networks with random weights that take milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import UNet2DConditionModel, UNet2DModel
from tokenizers import Tokenizer, models, pre_tokenizers

from p2l_engine.tiny import architecture


def narrow_unet(sample_size: int, channels: int) -> UNet2DConditionModel:
    """A U-Net of two narrow levels on latents of a side, with the text of the small model."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=architecture.TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def narrow_pixel_unet(sample_size: int, **settings: Any) -> UNet2DModel:
    """A U-Net of two narrow levels on images of a side."""
    return UNet2DModel(
        **{
            "sample_size": sample_size,
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            **settings,
        }
    )


WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "red",
    "green",
    "blue",
    "circle",
    "on",
    "sea",
    "wall",
    "large",
)
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
TEXT = {
    "vocab_size": len(WORDS),
    "pad_token_id": WORDS.index("[PAD]"),
    "bos_token_id": WORDS.index("[CLS]"),
    "eos_token_id": WORDS.index("[SEP]"),
    "max_position_embeddings": 80,
}
SIZE = {"height": 16, "width": 16}


def words_tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ("pad", "unk", "cls", "sep")
    special = {f"{name}_token": token for name, token in zip(names, WORDS, strict=False)}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="[CLS]", eos_token="[SEP]", **special
    )


def save_encoder_decoder(folder: Path) -> Path:
    """A captioner of a ViT and a GPT-2, in as many files as such models have; its captions differ."""
    torch.manual_seed(4)
    vision = transformers.ViTConfig(**VISION, initializer_range=1.0)
    text = transformers.GPT2Config(
        **TEXT, n_embd=16, n_layer=1, n_head=2, add_cross_attention=True, initializer_range=1.0
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        vision, text, decoder_start_token_id=TEXT["bos_token_id"], **TEXT
    )
    transformers.VisionEncoderDecoderModel(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size=SIZE).save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return folder


def save_blip(folder: Path) -> Path:
    """A captioner with a processor of its own; its captions differ."""
    torch.manual_seed(0)
    sizes = {name: VISION[name] for name in list(VISION)[:4]} | {"initializer_range": 1.0}
    text = TEXT | sizes | {"sep_token_id": TEXT["eos_token_id"], "encoder_hidden_size": 16}
    config = transformers.BlipConfig(
        text_config=text | {"projection_dim": 16}, vision_config=VISION | sizes, projection_dim=16
    )
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.BlipImageProcessorPil(size=SIZE)
    transformers.BlipProcessor(image_processor, words_tokenizer()).save_pretrained(folder)
    return folder
