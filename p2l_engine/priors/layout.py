"""What a folder must hold to be a Stable Diffusion 1.x or 2.x model in diffusers' layout.

Weights are read from safetensors only: unpickling a .bin, .pt or .ckpt file can run anything. Nothing here
imports torch.
"""

import fnmatch
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# Each network's weights: its file without the ending, or the begin of the names of several.
WEIGHTS = {
    "vae": "vae/diffusion_pytorch_model",
    "unet": "unet/diffusion_pytorch_model",
    "text_encoder": "text_encoder/model",
}
FULL, HALF = "", ".fp16"  # what stands in the names for the precision; full wins
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
CONVERT_FILE = (
    "a checkpoint in one file is made such a folder by: "
    'python -c "from diffusers import StableDiffusionPipeline as P; '
    "P.from_single_file({file!r}).save_pretrained('FOLDER')\" (it fetches small files from the hub)"
)
CHECKPOINT = (".safetensors", *PICKLED)  # how the names of such files end


def missing_files(names: Collection[str]) -> list[str]:
    """What a listing of paths, relative to the model's folder, lacks; empty when it lacks nothing."""
    problems = [f"{name} is missing" for name in CONFIGS if name not in names]
    if "tokenizer/tokenizer.json" not in names:
        problems += [f"{name} is missing" for name in TOKENIZER if name not in names]
    for network, stem in WEIGHTS.items():
        if found := _weights(names, network):
            problems += _missing_shards(found)
            continue
        pickled = [name for name in names if name.startswith(f"{network}/") and name.endswith(PICKLED)]
        state = f", only pickled weights are there ({pickled[0]}); {CONVERT}" if pickled else ""
        problems.append(f"{_single(stem, FULL)} is missing{state}")
    return problems


def used_files(names: Collection[str]) -> list[str]:
    """The paths of a listing that a model uses; half-precision weights only where there are no others."""
    weights = [name for network in WEIGHTS for name in _weights(names, network)]
    return [*(name for name in (*CONFIGS, *TOKENIZER, *OPTIONAL) if name in names), *weights]


def variant(folder: Path, network: str) -> str | None:
    """diffusers' name for the weights to load: None for full precision, "fp16" where only those are there."""
    return None if weights_of(listing(folder), network, FULL) else "fp16"


def weights_of(names: Collection[str], network: str, precision: str) -> list[str]:
    """The paths of a listing that hold a network's weights in a precision (FULL or HALF); empty if none do.

    One file, or several with the index that says which tensor is in which, as `save_pretrained` writes them.
    """
    single, index, shards = weight_names(network, precision)
    if single in names:
        return [single]
    return [index, *sorted(fnmatch.filter(names, shards))] if index in names else []


def weight_names(network: str, precision: str) -> tuple[str, str, str]:
    """The names that weights may have: of the one file, of the index, and a pattern for what it names."""
    stem = WEIGHTS[network]
    index = f"{stem}.safetensors.index{precision}.json"
    return _single(stem, precision), index, f"{stem}{precision}-?????-of-?????.safetensors"


def listing(folder: Path) -> set[str]:
    """The paths of a local folder's files, relative to it, that may belong to a model."""
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}


def _weights(names: Collection[str], network: str) -> list[str]:
    return weights_of(names, network, FULL) or weights_of(names, network, HALF)


def _single(stem: str, precision: str) -> str:
    return f"{stem}{precision}.safetensors"


def _missing_shards(weights: list[str]) -> list[str]:
    """What an index and the files beside it (or the one file) lack, as far as their names tell."""
    first, *shards = weights
    if not first.endswith(".json"):
        return []
    counts = {int(re.findall(r"-of-(\d+)", name)[-1]) for name in shards if re.search(r"-of-\d+\.", name)}
    if counts == {len(shards)}:
        return []
    return [
        f"{first} is the index of weights in several files, of which {len(shards)} are there; add the others"
    ]


def check_folder(folder: Path) -> list[str]:
    """What keeps a local folder from being loaded: missing files, or another architecture."""
    if not folder.is_dir():
        return [f"model folder {str(folder)!r} is missing"]
    names = listing(folder)
    problems = missing_files(names)
    checkpoints = [path for path in sorted(folder.iterdir()) if path.name.endswith(CHECKPOINT)]
    if checkpoints and not set(CONFIGS) & names:
        file = CONVERT_FILE.format(file=str(checkpoints[0]))
        problems = [f"it holds {checkpoints[0].name}, but is not in diffusers' layout; {file}"]
    if not problems:
        problems = [problem for network in WEIGHTS for problem in _check_index(folder, names, network)]
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


def _check_index(folder: Path, names: Collection[str], network: str) -> list[str]:
    """What is wrong with the index of weights in several files, where there is one."""
    index, *shards = _weights(names, network)
    if not index.endswith(".json"):
        return []
    try:
        named = set(_read_json(folder / index)["weight_map"].values())
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return [f"{index} is no index of weights (a JSON object with a weight_map); fetch it again"]
    lacking = named - {Path(shard).name for shard in shards}
    return [f"{index} names {name!r}, which is not beside it; fetch it again" for name in sorted(lacking)]


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
