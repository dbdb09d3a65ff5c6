"""The wheel holds all that a user needs; make's targets and CI's are there."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from pre_commit.clientlib import load_config

ROOT = Path(__file__).resolve().parents[1]
DATA_FOLDERS = ("p2l_engine/tiny/weights", "jobs/configs", "pipeline/results/report")


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> set[str]:
    """Names of the files in the wheel."""
    with zipfile.ZipFile(wheel_file) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_sources_and_the_data_beside_them(wheel: set[str]) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("p2l_engine", "pipeline", "jobs")
        for path in (ROOT / package).rglob("*.py")
    }
    for folder in DATA_FOLDERS:
        files = {p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        assert files, f"nothing in {folder}"
        wanted |= {str(path.relative_to(ROOT)) for path in files}
    wanted.add("pipeline/prices.yaml")
    assert wanted <= wheel, sorted(wanted - wheel)


def test_the_wheel_holds_the_licence_and_the_notice(wheel: set[str]) -> None:
    for name in ("LICENSE", "NOTICE"):
        assert any(path.endswith(f".dist-info/licenses/{name}") for path in wheel)


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    assert {path.split("/")[0].split("-")[0] for path in wheel} == {
        *("p2l_engine", "pipeline", "jobs", "p2l_first.py", "p2l")
    }


def test_make_alone_lists_the_targets() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    listed = re.findall(r"^make (\w+) +\w", shown.stdout, re.MULTILINE)
    (declared,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(declared.split())


def test_what_runs_before_a_commit_is_make_lint() -> None:
    (repository,) = load_config(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == ["make lint"]


def test_the_line_that_make_leaves_out_on_a_gpu_machine_is_the_pin_of_torch() -> None:
    pattern, *_ = re.findall(r"pin='(.+?)'", (ROOT / "Makefile").read_text())
    (line,) = re.findall(f"{pattern}.*", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert re.fullmatch(r"torch==[\d.]+", line)
