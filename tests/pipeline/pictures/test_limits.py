"""The limits that the README and docs/hostile_data.md state are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import limits

ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(name for name in vars(limits) if name.isupper())


@pytest.mark.parametrize("name", NAMES)
def test_each_limit_is_in_the_table(name: str) -> None:
    page = (ROOT / "docs" / "hostile_data.md").read_text()
    row = re.search(rf"^\| `{name}` \| ([\d,]+) \|", page, re.MULTILINE)
    assert row and int(row[1].replace(",", "")) == getattr(limits, name)


def test_the_readme_states_the_limits_of_a_row() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    for stated in (
        f"{limits.CELL_BYTES // 2**20} MiB as stored",
        f"an image of {limits.IMAGE_PIXELS:,} pixels",
        f"a prompt of {limits.PROMPT_CHARACTERS:,} characters",
        f"an image of {limits.RESTORED_PIXELS:,} pixels is restored",
    ):
        assert stated in text
