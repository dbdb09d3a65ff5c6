"""What `restore` refuses before any network runs, each with what was got, what is allowed, and a way out."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from p2l_engine.operators import LinearOperator
from p2l_engine.operators.base import is_deviation
from p2l_engine.priors.base import canvas

SURE_OF_MEAN = 8  # standard errors: noise alone takes a mean this far in one of 10^13 measurements
FEWEST = 48  # entries from which a mean is judged


def check_measurements(A: LinearOperator, y: Tensor, sigma: float) -> None:
    """ValueError unless y is a batch of finite measurements that A, with its masks or kernels, can yield.

    sigma: of the noise in them, which has to be one.
    """
    if not isinstance(A, LinearOperator):
        raise ValueError(f"A: got {type(A).__name__}; allowed: an operator, as operators.build makes it")
    if not isinstance(y, Tensor) or y.dtype not in (torch.float32, torch.float64):
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"y: got {got}; allowed: a tensor (B, *measurement) of float32 or float64, of images in [-1, 1]; "
            "y.float() makes it of a half type, y / 127.5 - 1 of pixels of 0 to 255"
        )
    if y.ndim == 0 or len(y) == 0:
        raise ValueError(f"y: got no measurement (shape {tuple(y.shape)}); allowed: a batch of at least 1")
    shape = A.image_shape(tuple(y.shape[1:]))
    if shape[0] != 3:
        raise ValueError(f"y: got measurements of images of {shape[0]} channels; allowed: 3 (RGB)")
    with torch.no_grad():
        measured = A(torch.zeros(len(y), *shape, dtype=y.dtype, device=y.device))
    if measured.shape != y.shape:
        raise ValueError(f"y: got shape {tuple(y.shape)}; allowed: {tuple(measured.shape)}, which A yields")
    if bad := _where(~y.isfinite().flatten(1).all(1)):
        raise ValueError(f"y: got not-a-number or infinity in measurement {bad}; allowed: finite numbers")
    _check_range(A, A.observed(y))
    if not is_deviation(sigma):
        raise ValueError(
            f"sigma: got {sigma!r}; allowed: a finite number of at least 0, in units of [-1, 1], for all"
        )


def check_conditions(
    model: Any | None,
    A: LinearOperator,
    y: Tensor,
    prompts: Sequence[str] | None,
    seeds: Sequence[int] | None,
    initial_latents: Tensor | None,
    prompt_embeddings: Tensor | None,
) -> None:
    """ValueError unless each that is given has one entry a measurement, of the model's shapes."""
    if prompts is not None:
        _check_list("prompts", "text", prompts, len(y), lambda prompt: isinstance(prompt, str))
    if seeds is not None:
        _check_list("seeds", "whole number", seeds, len(y), _is_whole)
    for name, given in (("initial_latents", initial_latents), ("prompt_embeddings", prompt_embeddings)):
        if given is not None:
            if model is None:
                raise ValueError(f"{name}: got them for a method without a model; allowed: none")
            _check_tensor(name, given, (len(y), *_shape_of(name, model, A, y)))


def _shape_of(name: str, model: Any, A: LinearOperator, y: Tensor) -> tuple[int | None, ...]:
    if name == "prompt_embeddings":
        if model.kind == "pixel":
            raise ValueError(f"{name}: got them for a pixel model, which reads no text; allowed: none")
        return None, model.text_width
    sides = A.image_shape(tuple(y.shape[1:]))[1:]
    whole = canvas(sides, model.image_multiple)
    if model.kind == "pixel":
        return 3, *whole
    return model.latent_channels, *(side // model.factor for side in whole)


def _check_range(A: LinearOperator, y: Tensor) -> None:
    """Refuses pixels of 0 to 255: noise of any strength moves no mean out of [-1, 1], but by its error."""
    if not A.keeps_range:
        return
    values, entries = y.flatten(1).double(), A.entries(y).double()
    mean = values.sum(1) / entries
    spread = (values.square().sum(1) / entries - mean.square()).clamp_min(0).sqrt()
    far = (mean.abs() > 1.1 + SURE_OF_MEAN * spread / entries.sqrt()) & (entries >= FEWEST)
    if bad := _where(far):
        raise ValueError(
            f"y: got values from {float(y.min()):.4g} to {float(y.max()):.4g}, with a mean that is no mean "
            f"of pixels in [-1, 1], in measurement {bad}; allowed: measurements of images in [-1, 1]; pixels "
            "of 0 to 255 become y / 127.5 - 1"
        )


def _check_list(name: str, kind: str, given: Any, count: int, fits: Any) -> None:
    allowed = f"allowed: a list with one {kind} an image"
    if isinstance(given, str | bytes) or not hasattr(given, "__len__"):
        raise ValueError(f"{name}: got {given!r}; {allowed}; for all alike, [{given!r}] * {count}")
    if len(given) != count:
        raise ValueError(f"{name}: got {len(given)} for {count} measurements; {allowed}")
    if wrong := [value for value in given if not fits(value)]:
        raise ValueError(f"{name}: got {wrong[0]!r}, {type(wrong[0]).__name__}; {allowed}")


def _check_tensor(name: str, given: Any, shape: tuple[int | None, ...]) -> None:
    got = (
        f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
    )
    fits = (
        isinstance(given, Tensor)
        and given.is_floating_point()
        and given.ndim == len(shape)
        and all(wanted in (None, side) for side, wanted in zip(given.shape, shape, strict=True))
    )
    if not fits:
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise ValueError(f"{name}: got {got}; allowed: a floating-point tensor of shape ({wanted})")


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _where(wrong: Tensor) -> str:
    """The places of a batch, counted from 0, where wrong (B,) holds; empty if nowhere."""
    return ", ".join(str(place) for place in wrong.nonzero().flatten().tolist())
