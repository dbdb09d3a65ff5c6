"""A job file, overrides on top of it, and every mistake in them at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from p2l_engine.mistakes import Mistakes
from p2l_engine.settings import explain
from pipeline import yaml_text
from pipeline.config.environment import JobHere
from pipeline.config.job import JobConfig
from pipeline.stores import storage


class ConfigError(Mistakes):
    """A configuration that cannot be run."""


def load_config(source: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> JobConfig:
    """A job file (path or URL) or its content, with overrides such as "method.steps=50" on top.

    An override's value is read as YAML. Raises ConfigError with all mistakes at once; loads no weights.
    """
    raw = _read(source) if isinstance(source, str) else json.loads(json.dumps(source))
    problems = [problem for override in overrides if (problem := _apply(raw, override))]
    try:
        here = JobHere.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([*problems, *explain(error, JobHere)]) from None
    if problems:
        raise ConfigError(problems)
    return read_back(here.model_dump())


def read_back(stored: Mapping[str, Any]) -> JobConfig:
    """The job that run.json holds. What it names need not be here. Raises ConfigError where it is none."""
    try:
        return JobConfig.model_validate(stored)
    except ValidationError as error:
        raise ConfigError(explain(error, JobConfig)) from None


def _read(source: str) -> dict[str, Any]:
    try:
        raw = yaml_text.read(storage.read_text(source))
    except FileNotFoundError:
        raise ConfigError([f"{source}: there is no such file"]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{source}: cannot be read as YAML: {error}"]) from error
    if not isinstance(raw, dict):
        raise ConfigError(
            [f"{source}: got {type(raw).__name__}; allowed: settings, one `name: value` a line"]
        )
    return raw


def _apply(raw: dict[str, Any], override: str) -> str | None:
    """Sets one `a.b=c` in place; the mistake in it, if there is one."""
    path, equals, text = override.partition("=")
    names = path.strip().split(".")
    if not equals or not all(names):
        return f"override {override!r}: allowed is setting=value, such as method.steps=50"
    try:
        value = yaml_text.read(text)
    except yaml.YAMLError as error:
        return f"override {override!r}: the value is not YAML: {error}"
    block = raw
    for name in names[:-1]:
        inner = block.get(name)
        if isinstance(inner, str) and name in ("model", "operator", "method"):
            inner = {"id" if name == "model" else "name": inner}
        block[name] = inner if isinstance(inner, dict) else {}
        block = block[name]
    block[names[-1]] = value
    return None
