"""Every command of the README and of docs/ works.

The blocks of the README, then those of each page, are run in order in one temporary folder that holds
photographs/ and what `make demo` leaves, as in a shell where nothing was activated before:
  ```bash    each line; one that ends in a backslash goes on in the next. `make` lines are checked to name a
             target; lines that need another place (`ELSEWHERE`) are only read; what one line sources, those
             after it have. Ray is these tests' cluster.
  ```yaml    written to the file that its first line names in a comment, as `# job.yaml`.
  ```python  run as a script.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from PIL import Image
from skimage import data

from jobs.demo import write_photograph

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("git clone ", "cd ", "ray job submit ", "pip install ")
LONGEST = 300  # seconds


def steps() -> list[tuple[str, str, str]]:
    """(language, text, what was sourced before) of what is to be run; of a bash block each line."""
    found: list[tuple[str, str, str]] = []
    sourced = ""
    pages = "\n".join(page.read_text() for page in PAGES)
    for language, text in re.findall(r"^```(bash|yaml|python)\n(.*?)^```", pages, re.DOTALL | re.MULTILINE):
        lines = text.replace("\\\n", " ").splitlines() if language == "bash" else [text]
        for line in lines:
            if line.startswith("source "):
                sourced += f"{line}; "
            elif line.strip() and (language != "bash" or not line.startswith("#")):
                found.append((language, line, sourced))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: two photographs, and the environment and the picture that `make demo` leaves."""
    folder = tmp_path_factory.mktemp("user")
    (folder / ".venv").symlink_to(sys.prefix)
    write_photograph(folder / "p2l-demo" / "photo.png")
    (folder / "photographs").mkdir()
    for number in range(2):
        crop = data.chelsea()[:128, 128 * number : 128 * (number + 1)]
        Image.fromarray(crop).save(folder / "photographs" / f"{number}.png")
    return folder


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("language", "text", "sourced"), steps(), ids=lambda part: part.split("\n")[0][:60])
def test_what_the_documents_say_works(language: str, text: str, sourced: str, folder: Path) -> None:
    if language == "yaml":
        name = re.match(r"# (\S+\.yaml)\n", text)
        assert name, "the first line of a yaml block names its file: # job.yaml"
        (folder / name[1]).write_text(text)
    elif language == "python":
        _succeeds([sys.executable, "-c", text], folder)
    elif text.startswith("make "):
        _succeeds(["make", "-n", *text.split()[1:]], ROOT)
    elif not text.startswith(ELSEWHERE):
        _succeeds(["bash", "-c", sourced + text], folder)


def _succeeds(command: list[str], folder: Path) -> None:
    here = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != here),
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": "token",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST
    )
    assert done.returncode == 0, done.stdout + done.stderr
