"""Which settings change results: two jobs that agree in them are one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from p2l_engine.priors.fetch import training_of

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig

OF_RESULT = ("mode", "model", "size", "fit", "operator", "noise", "prompt", "method", "seed")
# Left out while they are the default, for runs begun before these were settings.
OF_INPUT = ("columns", "keys", "prompt_embeddings", "caption")
ABSENT = "(absent)"


def settings(config: JobConfig) -> dict[str, Any]:
    """Those that change results, flat: {"method.steps": 1000, ...}, and which weights shipped models have."""
    values = config.model_dump(mode="json", include=set(OF_RESULT))
    for name in ("device", "compile"):
        values["model"].pop(name, None)
    trained = training_of(config.model.id)
    if config.method.prior and trained is not None:
        values["model"]["trained_steps"] = trained
    values |= config.model_dump(mode="json", include=set(OF_INPUT), exclude_defaults=True)
    captioner = config.caption.model if config.caption else None
    if captioner and (trained := training_of(captioner)) is not None:
        values["caption"]["trained_steps"] = trained
    return flat(values)


def of(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of a hash."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def changed_settings(stored: Mapping[str, Any], config: JobConfig) -> list[str]:
    """What differs between a run's stored `settings` and these: "method.steps: 1000 -> 50"."""
    now = config.settings
    return [
        f"{name}: {_show(stored.get(name, ABSENT))} -> {_show(now.get(name, ABSENT))}"
        for name in sorted({*stored, *now})
        if stored.get(name, ABSENT) != now.get(name, ABSENT)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their path, in their order; nothing of an empty block."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _show(value: Any) -> str:
    return value if value == ABSENT else json.dumps(value)
