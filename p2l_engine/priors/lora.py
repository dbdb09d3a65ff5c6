"""Low-rank adapters (Hu et al., 2022) of a U-Net, such as LCM-LoRA, fused into its weights.

A weight W (out, in) becomes W + (alpha / r) B A, with A (r, in) and B (out, r); that of a convolution too, A
having its kernel's sides. An adapter is a safetensors file in one of two layouts:

| | of kohya's scripts, as LCM-LoRA is | of diffusers |
|---|---|---|
| A | lora_unet_MODULE.lora_down.weight | unet.MODULE.lora_A.weight |
| B | lora_unet_MODULE.lora_up.weight | unet.MODULE.lora_B.weight |
| alpha | lora_unet_MODULE.alpha, or r | unet.lora_alpha of the file's metadata, or r |

MODULE is a path in the U-Net, in the first with _ for its dots.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from p2l_engine.mistakes import Mistakes, refuse
from p2l_engine.priors import fetch, layout

FILE = "pytorch_lora_weights.safetensors"  # of a folder or a repository
SHIPPED = "tiny"  # the id of that beside the small model
FOLDER = "adapter"  # its folder there
ALLOWED = (
    f"allowed: {SHIPPED!r}, a .safetensors file, a folder that holds {FILE}, a URL of either, or a hub id "
    "(owner/name)"
)
METADATA = "lora_adapter_metadata"  # of diffusers
OF_PARTS = ("alpha_pattern", "use_rslora", "use_dora")  # settings that would change the formula
_KEY = re.compile(
    r"lora_unet_(?P<flat>\w+)\.(?P<kohya>lora_down\.weight|lora_up\.weight|alpha)"
    r"|unet\.(?P<path>.+)\.(?P<diffusers>lora_[AB]\.weight)"
)
_ROLES = {"lora_down.weight": "A", "lora_A.weight": "A", "lora_up.weight": "B", "lora_B.weight": "B"}


@dataclass(frozen=True)
class Adapter:
    """What a file's header says.

    parts: of each adapted module, its path with _ for dots, the names of its tensors by A, B and alpha.
    shapes: of all tensors. alpha: of parts without their own; None for r.
    """

    name: str
    file: Path
    parts: Mapping[str, Mapping[str, str]]
    shapes: Mapping[str, tuple[int, ...]]
    alpha: float | None

    def misfits(self, unet: nn.Module) -> list[str]:
        """Why it is no adapter of a U-Net, whose weights need not be there."""
        modules = _modules(unet)
        wrong = [why for part in self.parts if (why := self._misfit(part, modules.get(part)))]
        if not wrong:
            return []
        return [
            f"lora: got {self.name!r}, of whose {len(self.parts)} parts {len(wrong)} do not fit the U-Net, "
            f"such as {wrong[0]}; allowed: an adapter that was made for this model's architecture"
        ]

    def fuse(self, unet: nn.Module) -> None:
        """Adds it, in float32, to the weights of a U-Net that it fits."""
        modules = _modules(unet)
        with safe_open(self.file, framework="pt") as tensors:
            for part, names in self.parts.items():
                down, up = (tensors.get_tensor(names[role]).float().flatten(1) for role in "AB")
                alpha = tensors.get_tensor(names["alpha"]).item() if "alpha" in names else self.alpha
                scale = 1.0 if alpha is None else alpha / len(down)
                weight: Any = modules[part].weight
                weight.data = weight.data.float() + (scale * up @ down).view_as(weight)

    def _misfit(self, part: str, module: nn.Module | None) -> str:
        down, up = (self.shapes[self.parts[part][role]] for role in "AB")
        if module is None:
            return f"{part}, which it lacks"
        weight: Any = module.weight
        if (up[0], *down[1:]) == tuple(weight.shape):
            return ""
        return f"{part}, for a weight {(up[0], *down[1:])} where it has {tuple(weight.shape)}"


def check_adapter(lora: str) -> list[str]:
    """What is wrong with an adapter's id, as far as this machine can tell offline. Of a file, its header."""
    if "://" in lora and not lora.endswith(layout.PICKLED):
        return fetch.check_scheme(lora, "lora")
    try:
        if (file := _here(lora)) is not None:
            _read_header(lora, file)
    except Mistakes as mistakes:
        return mistakes.problems
    return []


def read_adapter(lora: str) -> Adapter:
    """The adapter of an id, fetched first where it has to be.

    lora: SHIPPED, a .safetensors file, a folder that holds FILE, an fsspec URL of either, copied once into
    the cache folder, or a hub id. Raises ValueError when there is none, or it has other names or parts;
    OSError when it cannot be fetched.
    """
    refuse(check_adapter(lora))
    if "://" in lora:
        file = fetch.copied_file(lora if lora.endswith(".safetensors") else f"{lora.rstrip('/')}/{FILE}")
    else:
        file = _here(lora) or fetch.snapshot(lora, None, [FILE], "lora") / FILE
    if not file.is_file():
        raise Mistakes([f"lora: got {lora!r}, which lacks {FILE}; {ALLOWED}"])
    return _read_header(lora, file)


def is_here(lora: str) -> bool:
    """Whether it is a file or folder on this machine."""
    return "://" not in lora and _path(lora).exists()


def _path(lora: str) -> Path:
    return fetch.beside_tiny(FOLDER) if lora == SHIPPED else Path(lora).expanduser()


def _here(lora: str) -> Path | None:
    """The file on this machine; None for a hub id. Raises Mistakes for what is neither."""
    path = _path(lora)
    if lora.endswith(layout.PICKLED):
        raise Mistakes([f"lora: got {lora!r}, pickled weights, which can run anything when read; {ALLOWED}"])
    if path.is_dir():
        path = path / FILE
    elif not path.is_file() and not lora.endswith(".safetensors") and fetch.is_hub_id(lora):
        return None
    if not path.is_file():
        raise Mistakes([f"lora: got {lora!r}, but there is no {path} on this machine; {ALLOWED}"])
    return path


def _read_header(lora: str, file: Path) -> Adapter:
    try:
        with safe_open(file, framework="numpy") as tensors:
            names = list(tensors.keys())
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
            metadata = dict(json.loads((tensors.metadata() or {}).get(METADATA, "{}")))
    except (SafetensorError, TypeError, ValueError) as error:
        raise Mistakes([f"lora: got {lora!r}, which is no safetensors file ({error}); {ALLOWED}"]) from None
    parts: dict[str, dict[str, str]] = {}
    for name in names:
        if not (found := _KEY.fullmatch(name)):
            layouts = "lora_unet_MODULE.lora_down.weight or unet.MODULE.lora_A.weight"
            allowed = f"allowed: parts of the U-Net alone, named as {layouts}"
            raise Mistakes([f"lora: got {lora!r}, which has {name!r}; {allowed}"])
        module, role = found["flat"] or found["path"].replace(".", "_"), found["kohya"] or found["diffusers"]
        parts.setdefault(module, {})[_ROLES.get(role, role)] = name
    for module, roles in parts.items():
        down, up = (shapes.get(roles.get(role, ""), ()) for role in "AB")
        if len(down) < 2 or up[1:] != (down[0], *(1 for _ in down[2:])):
            raise Mistakes([f"lora: got {lora!r}, whose {module} is no pair of (r, in) and (out, r)"])
    if not parts:
        raise Mistakes([f"lora: got {lora!r}, an empty file; {ALLOWED}"])
    if special := [name for name in OF_PARTS if metadata.get(f"unet.{name}")]:
        raise Mistakes([f"lora: got {lora!r}, with {special[0]}; allowed: one alpha and rank, plain LoRA"])
    return Adapter(lora, file, parts, shapes, metadata.get("unet.lora_alpha"))


def _modules(unet: nn.Module) -> dict[str, nn.Module]:
    """Those that can be adapted, by their path with _ for dots."""
    return {
        name.replace(".", "_"): module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
