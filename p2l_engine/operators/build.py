"""Operators by name: from a block of settings to their value, and to the operator."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from p2l_engine.mistakes import Mistakes, did_you_mean
from p2l_engine.operators.base import LinearOperator, Shape
from p2l_engine.operators.blur import GivenBlur
from p2l_engine.operators.denoising import Denoising
from p2l_engine.operators.gaussian import GaussianBlur
from p2l_engine.operators.linear import Linear
from p2l_engine.operators.masks import Inpainting
from p2l_engine.operators.motion import MotionBlur
from p2l_engine.operators.pooling import SuperResolution
from p2l_engine.operators.settings import OperatorSettings
from p2l_engine.settings import explain

# All that there are, of which the first is meant where none is named.
FAMILIES: tuple[type[OperatorSettings], ...] = (
    SuperResolution,
    Inpainting,
    GaussianBlur,
    MotionBlur,
    GivenBlur,
    Denoising,
    Linear,
)
OPERATORS = {kind.model_fields["name"].default: kind for kind in FAMILIES}


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

    settings: those of that name in `OPERATORS`; what is left out takes its default. The other arguments are
    those of `OperatorSettings.build`.

    Raises ValueError, naming all that is wrong with the settings, or what is missing beside them.
    """
    try:
        value = from_block({"name": name, **settings})
    except Mistakes as mistakes:
        raise Mistakes([f"operator {problem}" for problem in mistakes.problems]) from None
    return value.build(generators=generators, image_shape=image_shape, masks=masks, kernels=kernels)


def from_block(block: Mapping[str, Any]) -> OperatorSettings:
    """The ``operator:`` block of a configuration as a value; no name is super_resolution's.

    Runs no code of the user's. Raises Mistakes, naming each setting ("factor: got 0; allowed: ...").
    """
    name = block.get("name", next(iter(OPERATORS)))
    if not isinstance(name, str) or name not in OPERATORS:
        raise Mistakes(
            [f"name: got {name!r}; allowed: {', '.join(OPERATORS)}{did_you_mean(name, OPERATORS)}"]
        )
    kind = OPERATORS[name]
    allowed = [key for key in kind.model_fields if key != "name"]
    mistakes = [
        f"{key}: no setting of {name}; allowed: {', '.join(allowed) or 'none'}{did_you_mean(key, allowed)}"
        for key in block
        if key not in kind.model_fields
    ]
    try:
        value = kind.model_validate({key: block[key] for key in kind.model_fields if key in block})
    except ValidationError as error:
        raise Mistakes([*mistakes, *explain(error, kind)]) from None
    if mistakes:
        raise Mistakes(mistakes)
    return value


def validate(name: Any, settings: Mapping[str, Any]) -> list[str]:
    """Every mistake in an operator's name and settings, as sentences, without building it.

    Empty if there is none. The function that `linear` names is looked for, which imports its module.
    """
    try:
        return from_block({"name": name, **settings}).check()
    except Mistakes as mistakes:
        return mistakes.problems
