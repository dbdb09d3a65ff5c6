"""The order of the house: engine <- pipeline <- jobs, one door to diffusers, only the folders designed."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "p2l_engine": {"ray", "pyarrow", "pipeline", "jobs"},
    "pipeline": {"jobs"},
}
# From top to bottom, as imports run: each of these may import from those after it and from itself.
WINGS = (
    ("run", "scores"),
    ("results", "cost"),
    ("worker",),
    ("observe",),
    ("cluster",),
    ("output",),
    ("config", "feasible"),
    ("prices", "accelerators"),
    ("input",),
    ("pictures",),
    ("stores",),
    ("messages", "limits", "threads", "yaml_text"),
)
FILES_IN_A_FOLDER = 15
LINES_IN_A_FILE = 400
# Whose packages a folder may import beside those that every user installs.
EXTRAS = {
    "p2l_engine/metrics": ("metrics", "scores"),
    "p2l_engine/tiny": ("dev",),  # for training
    "jobs/benchmark": ("dev",),
    "jobs/faults": ("dev",),
    "jobs/tables/plots.py": ("figures",),
    "tests": ("dev", "metrics", "s3", "scores"),
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


def wing_of(module: str) -> int:
    """The height of a module of `pipeline`, counted from the top."""
    name = module.split(".")[1]
    return next(height for height, names in enumerate(WINGS) if name in names)


def test_the_wings_of_the_pipeline_import_downwards_only() -> None:
    wrong = []
    for path in sources("pipeline"):
        relative = path.relative_to(ROOT)
        if relative == Path("pipeline/__init__.py"):
            continue
        here = wing_of(".".join(relative.with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "pipeline":
                modules = [f"pipeline.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            else:
                continue
            wrong += [
                f"{relative}:{node.lineno} imports {module}, from above it"
                for module in modules
                if module.startswith("pipeline.") and wing_of(module) < here
            ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["p2l_engine", "pipeline", "jobs", "tests"])
def test_no_folder_and_no_file_is_too_large(package: str) -> None:
    files = sources(package)
    folders = Counter(path.parent.relative_to(ROOT).as_posix() for path in files)
    crowded = {folder: count for folder, count in folders.items() if count > FILES_IN_A_FOLDER}
    lines = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in files}
    long = {name: count for name, count in lines.items() if count > LINES_IN_A_FILE}
    assert not crowded and not long, (crowded, long)


def declared() -> dict[str, set[str]]:
    """The packages of each extra of pyproject.toml; under "" those that every user installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {canonicalize_name(Requirement(text).name) for text in given}
        for extra, given in groups.items()
    }


def test_every_import_is_of_a_declared_package() -> None:
    groups, packages = declared(), importlib.metadata.packages_distributions()
    own = {"p2l_engine", "pipeline", "jobs", "tests", "p2l_first"}
    wrong = []
    for path in (
        path for package in ("p2l_engine", "pipeline", "jobs", "tests") for path in sources(package)
    ):
        relative = path.relative_to(ROOT).as_posix()
        extras = [extra for folder, found in EXTRAS.items() if relative.startswith(folder) for extra in found]
        allowed = groups[""].union(*(groups[extra] for extra in extras))
        for line, name in imported(path):
            if name in own or name in sys.stdlib_module_names:
                continue
            if not allowed & {canonicalize_name(found) for found in packages.get(name, [name])}:
                wrong.append(f"{relative}:{line} imports {name}, which pyproject.toml does not name for it")
    assert not wrong, "\n".join(wrong)


def test_an_extra_names_no_package_that_every_user_has() -> None:
    groups = declared()
    repeated = {extra: found & groups[""] for extra, found in groups.items() if extra and found & groups[""]}
    assert groups["s3"] and not repeated, repeated


def test_only_the_priors_touch_diffusers_and_transformers() -> None:
    """The training recipes make such models, so they are the one exception."""
    allowed = {*sources("p2l_engine/priors"), *sources("p2l_engine/tiny")}
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

    code = "import sys, p2l_engine; print(sorted({'ray', 'pyarrow', 'pipeline', 'jobs'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def words(package: str) -> Iterator[tuple[str, str]]:
    """File and text of every string in a package."""
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.relative_to(ROOT).as_posix(), node.value


def test_methods_and_operators_are_named_where_they_are_and_nowhere_else() -> None:
    """So that another one is one file and one line: the pipeline knows its default by name, and no other."""
    from p2l_engine.methods import SOLVERS
    from p2l_engine.operators.build import OPERATORS

    named = {*SOLVERS, *OPERATORS} - {"p2l"}  # which is a method, and this package
    assert [found for found in words("pipeline") if found[1] in named] == []
    own = {file for file, text in words("p2l_engine") if text == "adjoint"}
    assert own == {"p2l_engine/solvers/adjoint.py"}
