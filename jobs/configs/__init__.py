"""Ready job files, shipped with the package; any of them can be named in place of a path."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The ready configurations, such as "demo" and "sr8"."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def locate(config: str) -> str:
    """The path of a ready configuration, or `config` itself where it names none."""
    return str(FOLDER / f"{config}.yaml") if config in names() else config
