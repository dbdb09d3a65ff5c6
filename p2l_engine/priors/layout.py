"""What a folder in diffusers' or transformers' layout must hold to be a model that can be used.

A latent model is Stable Diffusion 1.x or 2.x; a pixel model is one network, in the folder of its pipeline or
in a folder of its own; a captioner is a network of transformers with its image processor and tokenizer.
Weights are read from safetensors only: unpickling a .bin, .pt or .ckpt file can run anything. Nothing here
imports torch.
"""

import fnmatch
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

FULL, HALF = "", ".fp16"  # what stands in the names for the precision; full wins
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Layout:
    """The files of a kind of model.

    weights: of each network, its file without the ending, or the begin of the names of several.
    configs: that must be there; scheduler: the names that its configuration may have; tokenizer: the two
    files that it is, or tokenizer.json alone; one_of: groups of names of which one must be there, and all
    are used; optional: what else is used where it is there.
    """

    kind: Literal["latent", "pixel", "captioner"]
    loader: str  # the class of the whole, in `vendor`
    weights: Mapping[str, str]
    configs: tuple[str, ...]
    scheduler: tuple[str, ...]
    tokenizer: tuple[str, ...] = ()
    one_of: tuple[tuple[str, ...], ...] = ()
    optional: tuple[str, ...] = ()
    vendor: Literal["diffusers", "transformers"] = "diffusers"

    @property
    def small(self) -> tuple[str, ...]:
        """All that are no weights."""
        return (*self.configs, *self.scheduler, *self.tokenizer, *chain(*self.one_of), *self.optional)


LATENT = Layout(
    "latent",
    "StableDiffusionPipeline",
    weights={
        "vae": "vae/diffusion_pytorch_model",
        "unet": "unet/diffusion_pytorch_model",
        "text_encoder": "text_encoder/model",
    },
    configs=(
        "vae/config.json",
        "unet/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ),
    scheduler=("scheduler/scheduler_config.json",),
    tokenizer=("tokenizer/vocab.json", "tokenizer/merges.txt"),
    optional=(
        "model_index.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/added_tokens.json",
    ),
)
PIXEL_PIPELINE = Layout(
    "pixel",
    "DDPMPipeline",
    weights={"unet": "unet/diffusion_pytorch_model"},
    configs=("unet/config.json",),
    scheduler=("scheduler/scheduler_config.json",),
    optional=("model_index.json",),
)
PIXEL_NETWORK = Layout(
    "pixel",
    "UNet2DModel",
    weights={"unet": "diffusion_pytorch_model"},
    configs=("config.json",),
    scheduler=("scheduler_config.json", "scheduler/scheduler_config.json"),
    optional=("model_index.json",),
)
LAYOUTS = (LATENT, PIXEL_PIPELINE, PIXEL_NETWORK)  # of the priors
CAPTIONER = Layout(
    "captioner",
    "AutoModelForImageTextToText",
    weights={"captioner": "model"},
    configs=("config.json",),
    scheduler=(),
    one_of=(
        ("preprocessor_config.json", "processor_config.json"),
        ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
    ),
    optional=(
        "generation_config.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ),
    vendor="transformers",
)
# transformers' types of models that write a text for a picture alone; others are to be asked something.
CAPTIONER_TYPES = ("vision-encoder-decoder", "blip", "blip-2", "git", "pix2struct")
CONVERT = (
    "a model with .bin weights is converted by: "
    'python -c "from {vendor} import {loader} as P; '
    "P.from_pretrained('SOURCE', use_safetensors=False).save_pretrained('FOLDER')\""
)
CONVERT_FILE = (
    "a checkpoint in one file is made such a folder by: "
    'python -c "from diffusers import StableDiffusionPipeline as P; '
    "P.from_single_file({file!r}).save_pretrained('FOLDER')\" (it fetches small files from the hub)"
)
CHECKPOINT = (".safetensors", *PICKLED)  # how the names of such files end


def layout_of(names: Collection[str], wanted: Layout | None = None) -> Layout:
    """That of a listing of paths, relative to the model's folder; a latent model's where nothing tells.

    wanted: the layout that it has to have, here and below; None for that of any prior.
    """
    if wanted is not None:
        return wanted
    if any(name.startswith(("vae/", "text_encoder/")) for name in names):
        return LATENT
    return next((layout for layout in LAYOUTS[1:] if layout.configs[0] in names), LATENT)


def missing_files(names: Collection[str], wanted: Layout | None = None) -> list[str]:
    """What a listing of paths, relative to the model's folder, lacks; empty when it lacks nothing."""
    layout = layout_of(names, wanted)
    convert = CONVERT.format(vendor=layout.vendor, loader=layout.loader)
    problems = [f"{name} is missing" for name in layout.configs if name not in names]
    if "tokenizer/tokenizer.json" not in names:
        problems += [f"{name} is missing" for name in layout.tokenizer if name not in names]
    problems += [f"{' or '.join(group)} is missing" for group in layout.one_of if not set(group) & set(names)]
    for stem in layout.weights.values():
        if found := _weights(names, stem):
            problems += _missing_shards(found)
            continue
        folder = stem.rpartition("/")[0]
        pickled = [name for name in names if name.rpartition("/")[0] == folder and name.endswith(PICKLED)]
        state = f", only pickled weights are there ({pickled[0]}); {convert}" if pickled else ""
        problems.append(f"{_single(stem, FULL)} is missing{state}")
    return problems


def used_files(names: Collection[str], wanted: Layout | None = None) -> list[str]:
    """The paths of a listing that a model uses; half-precision weights only where there are no others."""
    layout = layout_of(names, wanted)
    weights = [name for stem in layout.weights.values() for name in _weights(names, stem)]
    return [*(name for name in dict.fromkeys(layout.small) if name in names), *weights]


def variant(folder: Path, network: str, wanted: Layout | None = None) -> str | None:
    """The vendors' name for the weights to load: None for full precision, "fp16" where that is all."""
    names = listing(folder)
    return None if weights_of(names, layout_of(names, wanted).weights[network], FULL) else "fp16"


def weights_of(names: Collection[str], stem: str, precision: str) -> list[str]:
    """The paths of a listing that hold a network's weights in a precision (FULL or HALF); empty if none do.

    One file, or several with the index that says which tensor is in which, as `save_pretrained` writes them.
    """
    single, index, shards = weight_names(stem, precision)
    if single in names:
        return [single]
    return [index, *sorted(fnmatch.filter(names, shards))] if index in names else []


def weight_names(stem: str, precision: str) -> tuple[str, str, str]:
    """The names that weights may have: of the one file, of the index, and a pattern for what it names."""
    index = f"{stem}.safetensors.index{precision}.json"
    return _single(stem, precision), index, f"{stem}{precision}-?????-of-?????.safetensors"


def listing(folder: Path) -> set[str]:
    """The paths of a local folder's files, relative to it, that may belong to a model."""
    return {path.relative_to(folder).as_posix() for pattern in ("*", "*/*") for path in folder.glob(pattern)}


def _weights(names: Collection[str], stem: str) -> list[str]:
    return weights_of(names, stem, FULL) or weights_of(names, stem, HALF)


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


def check_folder(folder: Path, wanted: Layout | None = None) -> list[str]:
    """What keeps a local folder from being loaded: missing files, or another architecture."""
    if not folder.is_dir():
        return [f"model folder {str(folder)!r} is missing"]
    names = listing(folder)
    layout, problems = layout_of(names, wanted), missing_files(names, wanted)
    checkpoints = [path for path in sorted(folder.iterdir()) if path.name.endswith(CHECKPOINT)]
    if checkpoints and not set(layout.configs) & names and layout.vendor == "diffusers":
        file = CONVERT_FILE.format(file=str(checkpoints[0]))
        problems = [f"it holds {checkpoints[0].name}, but is not in diffusers' layout; {file}"]
    if not problems:
        problems = [
            problem for stem in layout.weights.values() for problem in _check_index(folder, names, stem)
        ]
    # Of a folder that was said to be of a kind, whether it is comes before what it lacks.
    if not problems or (wanted and set(wanted.configs) <= names):
        try:
            configs = [_read_json(folder / name) for name in layout.configs]
            problems = check_configs(layout, configs) or problems
        except json.JSONDecodeError as error:
            problems = [f"a configuration is not JSON ({error}); fetch it again"]
    return [f"model folder {str(folder)!r}: {problem}" for problem in problems]


def refuse_absent(weights: str, absent: Iterable[str]) -> None:
    """Raises ValueError for weights that lack tensors, which would be left at random values."""
    if names := sorted(absent):
        raise ValueError(
            f"{weights} lack {len(names)} tensors that its configuration asks for, such as {names[0]}; fetch "
            "or convert it again"
        )


def check_configs(layout: Layout, configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What in the contents of a layout's `configs` differs from the kind of model that it is."""
    if layout is CAPTIONER:
        return check_captioner(configs[0])
    return check_architecture(*configs[:3]) if layout is LATENT else check_pixel_architecture(configs[0])


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
    if unet.get("time_cond_proj_dim") is not None:
        problems.append(
            f"unet has time_cond_proj_dim {unet['time_cond_proj_dim']!r} (it asks for a guidance scale, as "
            "some latent consistency models do), allowed: null; take the model that it was distilled from, "
            "with an LCM-LoRA as `lora`"
        )
    if problems:
        return problems
    if unet.get("in_channels") != vae.get("latent_channels"):
        problems.append(
            f"unet takes {unet.get('in_channels')} channels, allowed: {vae.get('latent_channels')} as the "
            "VAE makes; take the text-to-image model, not one for inpainting, depth or enlargement"
        )
    problems += _check_sample_size(unet, "latents")
    if unet.get("cross_attention_dim") != text_encoder.get("hidden_size"):
        problems.append(
            f"unet attends to text embeddings of width {unet.get('cross_attention_dim')}, allowed: "
            f"the text encoder's {text_encoder.get('hidden_size')}"
        )
    return problems


def check_pixel_architecture(unet: Mapping[str, Any]) -> list[str]:
    """What in a network's configuration differs from a noise predictor over images."""
    if (got := unet.get("_class_name")) != "UNet2DModel":
        return [
            f"its network is a {got}, allowed: UNet2DModel, a pixel model's; a latent model has the folders "
            "vae, unet, text_encoder, tokenizer and scheduler"
        ]
    allowed: dict[str, tuple[Any, ...]] = {
        "in_channels": (3,),
        "out_channels": (3, 6),
        "time_embedding_type": ("positional", "learned"),  # of a timestep; fourier is of a noise level
        "class_embed_type": (None,),
        "center_input_sample": (False,),
    }
    defaults = {"in_channels": 3, "out_channels": 3, "time_embedding_type": "positional"}
    problems = [
        f"unet's {setting} is {got!r}, allowed: {', '.join(map(repr, values))}"
        for setting, values in allowed.items()
        if (got := unet.get(setting, defaults.get(setting, values[0]))) not in values
    ]
    return problems + _check_sample_size(unet, "images")


def check_captioner(config: Mapping[str, Any]) -> list[str]:
    """What in a network's configuration differs from one that writes a text for a picture."""
    kind = config.get("model_type")
    if kind in CAPTIONER_TYPES:
        return []
    allowed = f"a transformers model that captions a picture alone, of type {', '.join(CAPTIONER_TYPES)}"
    return [f"its network is of type {kind}, allowed: {allowed}"]


def _check_sample_size(unet: Mapping[str, Any], what: str) -> list[str]:
    if isinstance(unet.get("sample_size"), int):
        return []
    return [
        f"unet's sample_size is {unet.get('sample_size')}, allowed: an integer, the side of the {what} "
        "that it was trained on; write it into the network's config.json"
    ]


def _check_index(folder: Path, names: Collection[str], stem: str) -> list[str]:
    """What is wrong with the index of weights in several files, where there is one."""
    index, *shards = _weights(names, stem)
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
