"""The limits that docs/hostile_data.md states are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import limits

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "hostile_data.md").read_text()
NAMES = sorted(name for name in vars(limits) if name.isupper())


@pytest.mark.parametrize("name", NAMES)
def test_each_limit_is_in_the_table(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| ([\d,]+) \|", PAGE, re.MULTILINE)
    assert row and int(row[1].replace(",", "")) == getattr(limits, name)


def test_the_text_states_the_limits_of_a_row() -> None:
    text = " ".join(PAGE.split())
    for stated in (
        f"{limits.CELL_BYTES // 2**20} MiB as stored",
        f"an image of {limits.IMAGE_PIXELS:,} pixels",
        f"a prompt of {limits.PROMPT_CHARACTERS:,} characters",
        f"an image of {limits.RESTORED_PIXELS:,} pixels is restored",
    ):
        assert stated in text
