"""Metrics, numbers, times and settings as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.config.fingerprint import flat
from pipeline.output.columns import Metric


def number(metric: Metric, value: float) -> str:
    """A metric's value without its unit."""
    return significant(value) if metric.decimals is None else f"{value:.{metric.decimals}f}"


def with_unit(metric: Metric, value: float) -> str:
    """A metric's value as it stands alone."""
    return f"{number(metric, value)} {metric.unit}".strip()


def significant(value: float) -> str:
    """Three significant digits, in powers of ten only below 0.0001: 1,983 and 0.0228 and 7.01e-08."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:.2e}" if magnitude < -4 else f"{value:,.{max(0, 2 - magnitude)}f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would choose."""
    if seconds < 120:
        return f"{significant(seconds)} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def words(value: Any) -> str:
    """A setting's value."""
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value))
    return "none" if value is None else str(value) or "empty"


def pairs(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Nested settings as (path, value), in their order."""
    return tuple((path, words(value)) for path, value in flat(settings).items())
