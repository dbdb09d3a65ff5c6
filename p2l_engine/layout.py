"""What a folder must hold to be a Stable Diffusion 1.x or 2.x model in diffusers' layout.

Weights are read from safetensors only: unpickling a .bin, .pt or .ckpt file can run anything. Nothing here
imports torch.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# Each network's file of weights, without its ending.
WEIGHTS = {
    "vae": "vae/diffusion_pytorch_model",
    "unet": "unet/diffusion_pytorch_model",
    "text_encoder": "text_encoder/model",
}
FULL, HALF = ".safetensors", ".fp16.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONFIGS = (*(f"{network}/config.json" for network in WEIGHTS), "scheduler/scheduler_config.json")
# A tokenizer is these two files, or tokenizer.json alone.
TOKENIZER = ("tokenizer/vocab.json", "tokenizer/merges.txt")
OPTIONAL = (
    "model_index.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/added_tokens.json",
)
CONVERT = (
    "a model with .bin weights is converted by: "
    'python -c "from diffusers import StableDiffusionPipeline as P; '
    "P.from_pretrained('SOURCE', use_safetensors=False).save_pretrained('FOLDER')\""
)


def missing_files(names: Collection[str]) -> list[str]:
    """What a listing of paths, relative to the model's folder, lacks; empty when it lacks nothing."""
    problems = [f"{name} is missing" for name in CONFIGS if name not in names]
    if "tokenizer/tokenizer.json" not in names:
        problems += [f"{name} is missing" for name in TOKENIZER if name not in names]
    for network, stem in WEIGHTS.items():
        if stem + FULL in names or stem + HALF in names:
            continue
        pickled = [name for name in names if name.startswith(f"{network}/") and name.endswith(PICKLED)]
        state = f"is missing, only pickled weights are there ({pickled[0]})" if pickled else "is missing"
        problems.append(f"{stem + FULL} {state}; {CONVERT}")
    return problems


def used_files(names: Collection[str]) -> list[str]:
    """The paths of a listing that a model uses; half-precision weights only where there are no others."""
    weights = [stem + (FULL if stem + FULL in names else HALF) for stem in WEIGHTS.values()]
    return [name for name in (*CONFIGS, *TOKENIZER, *OPTIONAL, *weights) if name in names]


def variant(folder: Path, network: str) -> str | None:
    """diffusers' name for the weights to load: None for full precision, "fp16" where only those are there."""
    return None if (folder / (WEIGHTS[network] + FULL)).is_file() else "fp16"


def check_folder(folder: Path) -> list[str]:
    """What keeps a local folder from being loaded: missing files, or another architecture."""
    if not folder.is_dir():
        return [f"model folder {str(folder)!r} is missing"]
    problems = missing_files({path.relative_to(folder).as_posix() for path in folder.glob("*/*")})
    if not problems:
        try:
            vae, unet, text_encoder = (_read_json(folder / network / "config.json") for network in WEIGHTS)
            problems = check_architecture(vae, unet, text_encoder)
        except json.JSONDecodeError as error:
            problems = [f"a config.json is not JSON ({error}); fetch it again"]
    return [f"model folder {str(folder)!r}: {problem}" for problem in problems]


def check_architecture(
    vae: Mapping[str, Any], unet: Mapping[str, Any], text_encoder: Mapping[str, Any]
) -> list[str]:
    """What in three networks' configurations differs from Stable Diffusion 1.x and 2.x."""
    classes = (
        ("vae", vae.get("_class_name"), "AutoencoderKL"),
        ("unet", unet.get("_class_name"), "UNet2DConditionModel"),
        ("text_encoder", text_encoder.get("model_type"), "clip_text_model"),
    )
    problems = [f"{network} is a {got}, allowed: {want}" for network, got, want in classes if got != want]
    problems += [
        f"unet has {setting} {unet[setting]!r} (as Stable Diffusion XL and unCLIP have), allowed: null"
        for setting in ("addition_embed_type", "class_embed_type")
        if unet.get(setting) is not None
    ]
    if problems:
        return problems
    if unet.get("in_channels") != vae.get("latent_channels"):
        problems.append(
            f"unet takes {unet.get('in_channels')} channels, allowed: {vae.get('latent_channels')} as the "
            "VAE makes; take the text-to-image model, not one for inpainting, depth or enlargement"
        )
    if not isinstance(unet.get("sample_size"), int):
        problems.append(
            f"unet's sample_size is {unet.get('sample_size')}, allowed: an integer, the side of the latents "
            "that it was trained on; write it into unet/config.json"
        )
    if unet.get("cross_attention_dim") != text_encoder.get("hidden_size"):
        problems.append(
            f"unet attends to text embeddings of width {unet.get('cross_attention_dim')}, allowed: "
            f"the text encoder's {text_encoder.get('hidden_size')}"
        )
    return problems


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
