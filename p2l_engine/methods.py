"""Solvers by name: a `method:` block, over a preset, over the solver's defaults, to its value."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from p2l_engine.mistakes import Mistakes, did_you_mean
from p2l_engine.presets import AS_DEFAULT, PRESETS
from p2l_engine.settings import Settings, explain
from p2l_engine.solvers import AnySolver, Sampler, Solver

SOLVERS: dict[str, type[Solver]] = {
    name: solver
    for solver in get_args(AnySolver)
    for name in get_args(solver.model_fields["name"].annotation)
}


def build(name: str, preset: str | None = None, operator: str | None = None, **settings: Any) -> Solver:
    """A solver by name: its defaults, then the preset's settings for the operator, then ``settings``.

    operator: a column of the preset, as `OperatorSettings.column` names it, or an operator's name alone.

    Blocks (``prompt_tuning``, ``projection``, ``guidance``) are merged key by key; None takes a part out.
    Raises Mistakes, a ValueError naming every one: what was got, what is allowed, the nearest right key.
    """
    if not isinstance(name, str) or name not in SOLVERS:
        raise Mistakes([f"name: got {name!r}; allowed: {', '.join(SOLVERS)}{did_you_mean(name, SOLVERS)}"])
    solver = SOLVERS[name]
    merged = {**solver.defaults(name), "name": name}
    if preset is not None:
        settings = {"preset": preset, **settings}
        if has_presets(name):
            merged = _merge(merged, _preset(preset, name, operator))
    return _checked(solver, _merge(merged, settings))


def with_steps(solver: Solver, steps: int) -> Solver:
    """The solver, which takes steps, with so many of them. Raises Mistakes as `build` does."""
    return _checked(type(solver), {**dict(solver), "steps": steps}, strict=True)


def has_presets(name: str) -> bool:
    """Whether the solver of that name has settings of its own for models and operators."""
    return issubclass(SOLVERS[name], Sampler)


def from_block(block: Mapping[str, Any], operator: str | None = None) -> Solver:
    """The ``method:`` block of a configuration as a solver. Raises Mistakes as `build` does."""
    settings = {key: value for key, value in block.items() if key not in ("name", "preset")}
    return build(block.get("name", "p2l"), block.get("preset"), operator, **settings)


def to_block(solver: Solver, operator: str | None = None) -> dict[str, Any]:
    """The ``method:`` block that `from_block` makes this solver of, in values that JSON has.

    A dump leaves out what is a default; where the solver's preset has something else, it is said.
    """
    block: dict[str, Any] = solver.model_dump(mode="json")
    if block.get("preset") is not None:
        _say(block, solver, from_block(block, operator))
    return block


def misfits(solver: Solver, model: Any) -> list[str]:
    """Why a solver cannot run on a model: sentences on its settings.

    model: a prior, or an architecture; its kind and what more a solver of that kind asks for.
    """
    if solver.prior is None:
        return []
    if model.kind == solver.prior:
        return solver.misfits(model)
    fitting = [name for name, other in SOLVERS.items() if other.prior in (model.kind, None)]
    return [
        f"name: got {solver.name}, which needs a {solver.prior} model, for a {model.kind} one; allowed: "
        f"{', '.join(fitting)}, or a {solver.prior} model"
    ]


def validate(block: Mapping[str, Any], operator: str | None = None) -> list[str]:
    """Every mistake in a ``method:`` block, as sentences; an empty list if there is none."""
    try:
        from_block(block, operator)
    except Mistakes as mistakes:
        return mistakes.problems
    return []


def _checked(solver: type[Solver], settings: Mapping[str, Any], strict: bool | None = None) -> Solver:
    """strict: numbers of another type, such as 2.0 steps, are mistakes."""
    try:
        return solver.model_validate(settings, strict=strict)
    except ValidationError as error:
        raise Mistakes(explain(error, solver)) from None


def _preset(preset: str, name: str, operator: str | None) -> dict[str, Any]:
    if not isinstance(preset, str) or preset not in PRESETS:
        raise Mistakes([f"preset: got {preset!r}; allowed: {', '.join(PRESETS)}, or null"])
    by_operator = PRESETS[preset]
    kinds = {str(SOLVERS[method].prior) for methods in by_operator.values() for method in methods}
    if str(SOLVERS[name].prior) not in kinds:
        raise Mistakes(
            [f"preset: got {preset}, which has settings for {' and '.join(sorted(kinds))} methods"]
        )
    if operator not in by_operator:
        operator = str(operator).split(" ")[0]  # its column for all settings
    if operator not in by_operator:
        raise Mistakes(
            [
                f"preset: {preset} has no column for the operator {operator!r}; it has "
                f"{', '.join(by_operator)}. Set preset: null and give the settings"
            ]
        )
    if name not in by_operator[operator] and name not in AS_DEFAULT.get(preset, ()):
        others = [other for other in PRESETS if name in PRESETS[other].get(operator, {})]
        others += [other for other, names in AS_DEFAULT.items() if name in names]
        raise Mistakes(
            [
                f"preset: got {preset}, which has no settings for {name} and {operator}; allowed: "
                f"{', '.join([*dict.fromkeys(others), 'null'])}, or "
                f"{', '.join([*by_operator[operator], *AS_DEFAULT.get(preset, ())])} with it"
            ]
        )
    return by_operator[operator].get(name, {})


def _say(block: dict[str, Any], wanted: Settings, got: Settings) -> None:
    """Puts into a block what makes of its settings those wanted."""
    for name in type(wanted).model_fields:
        value, other = getattr(wanted, name), getattr(got, name)
        if value == other:
            continue
        if isinstance(value, Settings) and isinstance(other, Settings):
            _say(block.setdefault(name, {}), value, other)
        else:
            block[name] = value.model_dump(mode="json") if isinstance(value, Settings) else value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = _merge(inner or {}, value) if isinstance(value, Mapping) else value
    return merged
