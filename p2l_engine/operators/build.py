"""Operators by name: the one way from settings to an operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from p2l_engine.operators.base import LinearOperator, Shape, check_image_shape
from p2l_engine.operators.blur import Blur, gaussian_kernel
from p2l_engine.operators.brush import free_form_mask
from p2l_engine.operators.denoising import Identity
from p2l_engine.operators.linear import linear, resolve_function
from p2l_engine.operators.masks import Masking, box_mask, random_mask
from p2l_engine.operators.motion import motion_kernel
from p2l_engine.operators.pooling import AveragePooling
from p2l_engine.operators.settings import resolve

Settings = dict[str, Any]


def build(
    name: str,
    *,
    generators: Sequence[torch.Generator] | None = None,
    image_shape: Shape | None = None,
    masks: Tensor | None = None,
    kernels: Tensor | None = None,
    **settings: Any,
) -> LinearOperator:
    """The operator of that name for a batch of B images.

    generators: one an image, drawing its mask or motion kernel (inpainting random | free_form | box,
    motion_blur). image_shape: (3, H, W); needed for drawn masks and for `linear`; where given, it is checked
    that the operator applies to it. masks (B, 1, H, W), 1 = observed: for inpainting with mask given.
    kernels (B, 1, k, k), sum 1: for blur. One mask or kernel (B = 1) serves every image of any batch.
    settings: as `p2l_engine.operators.settings.SCHEMAS` lists them; what is left out takes its default.

    Raises ValueError, naming all that is wrong with the settings, or what is missing beside them.
    """
    data = _Data(name, generators, image_shape, masks, kernels)
    resolved = resolve(name, settings)
    for what, given, wanted in (
        ("masks", masks, resolved.get("mask") == "given"),
        ("kernels", kernels, resolved.get("kernel") == "given"),
    ):
        if given is not None and not wanted:
            place = "inpainting with mask='given'" if what == "masks" else "blur"
            raise ValueError(f"operator {name}: got {what}; allowed: only for {place}")
    operator = _BUILDERS[name](resolved, data)
    if image_shape is not None:
        operator.measurement_shape(image_shape)
    return operator


@dataclass(frozen=True)
class _Data:
    """What a build may need beside its settings."""

    name: str
    generators: Sequence[torch.Generator] | None
    image_shape: Shape | None
    masks: Tensor | None
    kernels: Tensor | None

    def need(self, what: str) -> Any:
        """The data of that name; ValueError where it was not given."""
        given = getattr(self, what)
        if given is None or len(given) == 0:
            raise ValueError(f"operator {self.name}: got no {what}; allowed: {what}={_FORMS[what]}")
        return given

    def draw(self, one: Callable[[torch.Generator], Tensor]) -> Tensor:
        """One drawing for each image's generator, stacked."""
        return torch.stack([one(source) for source in self.need("generators")])


_FORMS = {
    "generators": "[...], one torch.Generator an image",
    "image_shape": "(3, height, width)",
    "masks": "a tensor (images, 1, height, width), 1 where observed",
    "kernels": "a tensor (images, 1, height, width), sum 1",
}


_MASKS: dict[str, Callable[..., Tensor]] = {
    "random": random_mask,
    "free_form": free_form_mask,
    "box": box_mask,
}


def _inpainting(settings: Settings, data: _Data) -> LinearOperator:
    if settings["mask"] == "given":
        return Masking(data.need("masks"))
    draw = _MASKS[settings["mask"]]
    _, height, width = check_image_shape(data.name, data.need("image_shape"))
    return Masking(data.draw(lambda source: draw(source, height, width, settings["fraction"])))


def _gaussian_blur(settings: Settings, data: _Data) -> LinearOperator:
    kernel = gaussian_kernel(settings["size"], settings["sigma"])
    return Blur(kernel[None], settings["padding"], name=data.name)


def _motion_blur(settings: Settings, data: _Data) -> LinearOperator:
    kernels = data.draw(lambda source: motion_kernel(source, settings["size"], settings["intensity"]))
    return Blur(kernels, settings["padding"], name=data.name)


_BUILDERS: dict[str, Callable[[Settings, _Data], LinearOperator]] = {
    "super_resolution": lambda settings, data: AveragePooling(settings["factor"]),
    "inpainting": _inpainting,
    "gaussian_blur": _gaussian_blur,
    "motion_blur": _motion_blur,
    "blur": lambda settings, data: Blur(data.need("kernels"), settings["padding"]),
    "denoising": lambda settings, data: Identity(),
    "linear": lambda settings, data: linear(resolve_function(settings["function"]), data.need("image_shape")),
}
