"""The settings of every operator by name: defaults, what is allowed, and all that is wrong with a choice."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from p2l_engine.mistakes import Mistakes, did_you_mean
from p2l_engine.operators.brush import CLASSES
from p2l_engine.operators.linear import resolve_function


@dataclass(frozen=True)
class Setting:
    """One setting: its default, and how a value given for it is read."""

    default: Any
    allowed: str
    parse: Callable[[Any], Any]  # to the canonical value; ValueError for one that is not allowed


def validate(name: Any, settings: Mapping[str, Any]) -> list[str]:
    """Everything wrong with an operator's name and settings, without building it; empty if nothing is.

    Each problem starts with the setting it is about ("factor: got 0; allowed: ...").
    """
    if not isinstance(name, str) or name not in SCHEMAS:
        return [f"name: got {name!r}; allowed: {', '.join(SCHEMAS)}{did_you_mean(name, SCHEMAS)}"]
    schema = _schema(name, settings)
    problems = [
        f"{key}: no setting of {name}; allowed: {', '.join(schema) or 'none'}{did_you_mean(key, schema)}"
        for key in settings
        if key not in schema
    ]
    for key, setting in schema.items():
        try:
            setting.parse(settings.get(key, setting.default))
        except ValueError as error:
            detail = f" ({error})" if str(error) else ""
            problems.append(f"{key}: got {settings.get(key)!r}{detail}; allowed: {setting.allowed}")
    return problems


def resolve(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an operator, defaults filled in, values in canonical form. Mistakes as `validate`."""
    if problems := validate(name, settings):
        raise Mistakes([f"operator {problem}" for problem in problems])
    return {
        key: setting.parse(settings.get(key, setting.default))
        for key, setting in _schema(name, settings).items()
    }


def needs(name: str, settings: Mapping[str, Any]) -> set[str]:
    """What every image must bring along for this operator: a subset of {"mask", "kernel"}."""
    resolved = resolve(name, settings)
    return {what for what in ("mask", "kernel") if resolved.get(what) == "given"}


def _whole(default: int, least: int, odd: bool = False) -> Setting:
    def parse(value: Any) -> int:
        if type(value) is not int or value < least or (odd and value % 2 == 0):
            raise ValueError
        return value

    return Setting(default, f"{'an odd' if odd else 'a'} whole number of at least {least}", parse)


def _number(default: float, allowed: str, accepts: Callable[[float], bool]) -> Setting:
    def parse(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not accepts(value):
            raise ValueError
        return float(value)

    return Setting(default, allowed, parse)


def _choice(default: str, *options: str) -> Setting:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError(did_you_mean(value, options).removeprefix("; "))
        return value

    return Setting(default, ", ".join(options), parse)


def _coverage(default: str) -> Setting:
    def parse(value: Any) -> str:
        canonical = f"{value.replace(' ', '').removesuffix('%')}%" if isinstance(value, str) else None
        if canonical not in CLASSES:
            raise ValueError
        return canonical

    return Setting(default, f"a class of dropped share: {', '.join(CLASSES)}", parse)


def _absent(reason: str) -> Setting:
    def parse(value: Any) -> None:
        if value is not None:
            raise ValueError

    return Setting(None, f"nothing: {reason}", parse)


def _function() -> Setting:
    def parse(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        resolve_function(value)
        return value

    return Setting(None, "package.module:function, a linear function of images (B, 3, H, W)", parse)


_PADDING = _choice("reflect", "reflect", "circular")
_KERNEL_SIZE = _whole(61, 3, odd=True)

SCHEMAS: dict[str, dict[str, Setting]] = {
    "super_resolution": {"factor": _whole(8, 1)},
    "inpainting": {"mask": _choice("free_form", "random", "free_form", "box", "given")},
    "gaussian_blur": {
        "size": _KERNEL_SIZE,
        "sigma": _number(3.0, "a number of pixels above 0", lambda value: value > 0),
        "padding": _PADDING,
    },
    "motion_blur": {
        "size": _KERNEL_SIZE,
        "intensity": _number(0.5, "a number from 0 to 1", lambda value: 0 <= value <= 1),
        "padding": _PADDING,
    },
    "blur": {"kernel": _choice("given", "given"), "padding": _PADDING},
    "denoising": {},
    "linear": {"function": _function()},
}

# What `fraction` of inpainting means depends on the kind of mask.
_FRACTIONS: dict[str, Setting] = {
    "random": _number(0.8, "the share of pixels dropped, from 0 to below 1", lambda value: 0 <= value < 1),
    "free_form": _coverage("10-20%"),
    "box": _number(0.5, "the box's share of each side, above 0 and below 1", lambda value: 0 < value < 1),
    "given": _absent("the given masks say what is dropped"),
}


def _schema(name: str, settings: Mapping[str, Any]) -> dict[str, Setting]:
    if name != "inpainting":
        return SCHEMAS[name]
    mask = settings.get("mask", SCHEMAS[name]["mask"].default)
    unknown = Setting(None, "", lambda value: value)  # the mask itself is the problem then
    return SCHEMAS[name] | {"fraction": _FRACTIONS.get(mask, unknown) if isinstance(mask, str) else unknown}
