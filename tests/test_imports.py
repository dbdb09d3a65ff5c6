"""The order of the house: engine <- pipeline <- jobs, one door to diffusers, only the folders designed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "p2l_engine": {"ray", "pyarrow", "pipeline", "jobs"},
    "pipeline": {"jobs"},
}
VENDORS = {"diffusers", "transformers"}
TOP_LEVEL_FOLDERS = {"p2l_engine", "pipeline", "jobs", "infra", "tests", "docs", ".ci"}
MADE_BY_TOOLS = {
    ".git",
    ".venv",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    "__pycache__",
    "build",
    "dist",
    "p2l-demo",
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every absolute import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_flow_from_jobs_to_the_engine_only(package: str) -> None:
    files = sources(package)
    assert files, f"no source under {package}/"
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imported(path)
        if name in FORBIDDEN[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_model_adapter_touches_diffusers_and_transformers() -> None:
    """The training recipe makes such a model, so it is the one exception."""
    allowed = {ROOT / "p2l_engine" / "model.py", *sources("p2l_engine/tiny")}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for package in ("p2l_engine", "pipeline", "jobs")
        for path in sources(package)
        if path not in allowed
        for line, name in imported(path)
        if name in VENDORS
    ]
    assert not wrong, "\n".join(wrong)


def test_every_top_level_folder_is_one_of_the_design() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert folders <= TOP_LEVEL_FOLDERS | MADE_BY_TOOLS, sorted(folders - TOP_LEVEL_FOLDERS - MADE_BY_TOOLS)


def test_the_engine_starts_without_ray_or_pyarrow() -> None:
    import subprocess
    import sys

    code = "import sys, p2l_engine; print(sorted({'ray', 'pyarrow', 'pipeline', 'jobs'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
