"""Methods as values: what `p2l_engine.solvers.sampler` is told to do, and the paper's settings by name.

| method | prompt tuning | projection | guidance |
|---|---|---|---|
| ldps | - | - | gradient of the norm of y - A D(z0), gradient descent (Eq. 6) |
| gml_dps | - | - | + fixed-point term (Eq. 44) |
| psld | - | - | + fixed-point term after gluing (Eq. 45) |
| ldir | - | - | Adam history (Eq. 40-43) |
| p2l | Algorithm 2 | Sec. 3.3 | gradient descent (Alg. 1) or Adam history (Alg. 3) |
| adjoint | - | - | no network at all: A^T y over A^T A 1 |
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from p2l_engine.mistakes import Mistakes, did_you_mean
from p2l_engine.presets import PRESETS
from p2l_engine.settings import Settings, explain

Name = Literal["p2l", "ldps", "gml_dps", "psld", "ldir", "adjoint"]
NAMES: tuple[str, ...] = get_args(Name)


class PromptTuning(Settings):
    """Algorithm 2. iterations: K, at each timestep; learning_rate: of Adam, on the text embedding.

    A network in bfloat16 does not see a change of an embedding's number by less than 1/256 of it.
    """

    iterations: int = Field(default=3, ge=1, le=100)
    learning_rate: float = Field(default=1e-4, gt=0)


class Projection(Settings):
    """Sec. 3.3. every: gamma, in steps; weight: lambda of Eq. 19; onto: the Gamma of Table 4, or none."""

    every: int = Field(default=4, ge=1)
    weight: float = Field(default=1.0, gt=0)
    onto: Literal["proximal", "gluing", "none"] = "proximal"


class FixedPoint(Settings):
    """The term of Eq. 44 (onto: none) or Eq. 45 (onto: gluing). weight: gamma of those equations."""

    weight: float = Field(default=0.1, gt=0)
    onto: Literal["none", "gluing"] = "none"


class Guidance(Settings):
    """The measurement gradient. step_size: rho, times alpha_bar_t where the schedule says so."""

    rule: Literal["gd", "adam"] = "gd"
    step_size: float = Field(default=1.0, ge=0)
    step_schedule: Literal["constant", "alpha_bar"] = "constant"
    residual: Literal["norm", "squared"] = "norm"
    fixed_point: FixedPoint | None = None


class Method(Settings):
    """A method with all of its settings. steps: DDIM steps, one to as many as the model was trained with."""

    name: Name = "p2l"
    preset: Literal["ffhq", "imagenet", "tiny"] | None = None
    steps: int = Field(default=1000, ge=1)
    prompt_tuning: PromptTuning | None = None
    projection: Projection | None = None
    guidance: Guidance | None = None


DEFAULTS: dict[str, dict[str, Any]] = {
    "p2l": {"prompt_tuning": {}, "projection": {}, "guidance": {}},
    "ldps": {"guidance": {}},
    "gml_dps": {"guidance": {"fixed_point": {"onto": "none"}}},
    "psld": {"guidance": {"fixed_point": {"onto": "gluing"}}},
    "ldir": {"guidance": {"rule": "adam", "step_size": 0.05}},
    "adjoint": {"steps": 1},
}


def build(name: str, preset: str | None = None, operator: str | None = None, **settings: Any) -> Method:
    """A method by name: its defaults, then the preset's settings for the operator, then ``settings``.

    Blocks (``prompt_tuning``, ``projection``, ``guidance``) are merged key by key; None takes a part out.
    Raises Mistakes, a ValueError naming every one: what was got, what is allowed, the nearest right key.
    """
    if name not in NAMES:
        raise Mistakes([f"name: got {name!r}; allowed: {', '.join(NAMES)}{did_you_mean(name, NAMES)}"])
    if name == "adjoint" and (settings or preset):
        given = ", ".join([*settings, *(["preset"] if preset else [])])
        raise Mistakes([f"got {given} for the method adjoint; allowed: nothing but the name"])
    if name == "adjoint":
        return Method(name="adjoint", steps=1)
    merged = DEFAULTS[name]
    if preset is not None:
        merged = _merge(merged, _preset(preset, name, operator))
    try:
        return Method.model_validate({**_merge(merged, settings), "name": name, "preset": preset})
    except ValidationError as error:
        raise Mistakes(explain(error, Method)) from None


def from_block(block: Mapping[str, Any], operator: str | None = None) -> Method:
    """The ``method:`` block of a configuration as a Method. Raises Mistakes as `build` does."""
    settings = {key: value for key, value in block.items() if key not in ("name", "preset")}
    return build(block.get("name", "p2l"), block.get("preset"), operator, **settings)


def validate(block: Mapping[str, Any], operator: str | None = None) -> list[str]:
    """Every mistake in a ``method:`` block, as sentences; an empty list if there is none."""
    try:
        from_block(block, operator)
    except Mistakes as mistakes:
        return mistakes.problems
    return []


def _preset(preset: str, name: str, operator: str | None) -> dict[str, Any]:
    if preset not in PRESETS:
        raise Mistakes([f"preset: got {preset!r}; allowed: {', '.join(PRESETS)}, or null"])
    by_operator = PRESETS[preset]
    if operator not in by_operator:
        raise Mistakes(
            [
                f"preset: {preset} has no column for the operator {operator!r}; it has "
                f"{', '.join(by_operator)}. Set preset: null and give the settings"
            ]
        )
    return by_operator[operator].get(name, {})


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = _merge(inner or {}, value) if isinstance(value, Mapping) else value
    return merged
