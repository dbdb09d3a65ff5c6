"""The documents: short where a user begins, every page within reach, every link and path leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.benchmark.__main__ import app as benchmark
from jobs.cli import app
from tests.test_imports import WINGS

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))
DOCUMENTS = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("infra/*.md"))
)
ARCHITECTURE = ROOT / "docs" / "architecture.md"
LONGEST_README = 150  # lines
PROGRAMS = {"p2l ": app, "python -m jobs.benchmark ": benchmark}


def links(document: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", document.read_text())


def console_lines() -> list[str]:
    """Of the ```console blocks, which show what is not run here."""
    pages = "\n".join((ROOT / document).read_text() for document in DOCUMENTS)
    blocks = re.findall(r"^```console\n(.*?)^```", pages, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(tuple(PROGRAMS))]


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_of_the_architecture_has_the_wings_in_their_order() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", ARCHITECTURE.read_text(), re.MULTILINE)
    assert [tuple(re.findall(r"\w+", row)) for row in rows] == list(WINGS)


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_that_is_named_is_there(document: str) -> None:
    """`NAME` stands for what a reader adds; a shard's or a user's files begin with no folder of ours."""
    named = re.findall(
        r"`((?:p2l_engine|pipeline|jobs|tests|docs|infra|\.ci)/[\w/.]*)`", (ROOT / document).read_text()
    )
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []
    assert len(named) >= 10


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST_README


@pytest.mark.parametrize("page", PAGES)
def test_the_readme_links_each_page_once(page: str) -> None:
    assert links(README).count(f"docs/{page}") == 1


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for link in links(ROOT / document):
        path, _, anchor = link.partition("#")
        if not path.startswith("https://"):
            target = (ROOT / document).parent / path if path else ROOT / document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("line", console_lines())
def test_a_command_that_is_shown_has_the_options_it_is_shown_with(line: str) -> None:
    name = next(name for name in PROGRAMS if line.startswith(name))
    words = shlex.split(line.removeprefix(name), comments=True)
    shown = CliRunner().invoke(PROGRAMS[name], [*words, "--help"])
    assert shown.exit_code == 0, shown.output
