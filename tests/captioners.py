"""Captioning models of transformers with random weights, one of each kind, that take milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

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


def save_git(folder: Path) -> Path:
    """A captioner of one network, whose pictures are its text's beginning; its captions differ."""
    torch.manual_seed(0)
    sizes = {name: VISION[name] for name in list(VISION)[:4]}
    config = transformers.GitConfig(
        vision_config=VISION | {"initializer_range": 1.0}, **TEXT, **sizes, initializer_range=1.0
    )
    transformers.GitForCausalLM(config).save_pretrained(folder)
    image_processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIZE)
    transformers.GitProcessor(image_processor, words_tokenizer()).save_pretrained(folder)
    return folder


def save_blip2(folder: Path) -> Path:
    """A captioner whose pictures are two words of a language model's; its captions differ."""
    torch.manual_seed(0)
    sizes = {name: VISION[name] for name in list(VISION)[:4]} | {"initializer_range": 1.0}
    between = {"vocab_size": len(WORDS), "encoder_hidden_size": 16}
    text = transformers.OPTConfig(
        **{**TEXT, "vocab_size": len(WORDS) + 1, "max_position_embeddings": 120},
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        init_std=1.0,
    )
    config = transformers.Blip2Config(
        vision_config=VISION | {"initializer_range": 1.0},
        qformer_config=sizes | between,
        text_config=text.to_dict(),
        num_query_tokens=2,
        image_token_index=len(WORDS),
    )
    transformers.Blip2ForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.BlipImageProcessorPil(size=SIZE)
    transformers.Blip2Processor(image_processor, words_tokenizer(), num_query_tokens=2).save_pretrained(
        folder
    )
    return folder


def save_pix2struct(folder: Path) -> Path:
    """A captioner of pictures of any shape, cut into patches; its captions differ."""
    torch.manual_seed(10)
    sizes = {"hidden_size": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "initializer_factor": 10.0}
    text = sizes | {"vocab_size": len(WORDS), "num_layers": 1, "decoder_start_token_id": TEXT["bos_token_id"]}
    vision = sizes | {"patch_embed_hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {name: TEXT[name] for name in ("pad_token_id", "eos_token_id")}
    config = transformers.Pix2StructConfig(
        text_config=text | special, vision_config=vision | {"initializer_range": 1.0}
    )
    transformers.Pix2StructForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.Pix2StructImageProcessorPil()
    transformers.Pix2StructProcessor(image_processor, words_tokenizer()).save_pretrained(folder)
    return folder
