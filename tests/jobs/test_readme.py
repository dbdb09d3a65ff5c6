"""Every command of the README works.

The README's blocks are run in order in one temporary folder that holds photo.png and photographs/:
  ```bash    each line; one that ends in a backslash goes on in the next. `make` lines are checked to name a
             target; lines that need another place (`ELSEWHERE`) are only read. Ray is these tests' cluster.
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

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ELSEWHERE = ("git clone ", "cd ", "ray job submit ", "pip install ")
LONGEST = 300  # seconds


def steps() -> list[tuple[str, str]]:
    """(language, text) of what is to be run, the lines of a bash block one by one."""
    found: list[tuple[str, str]] = []
    for language, text in re.findall(r"^```(bash|yaml|python)\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        if language == "bash":
            lines = text.replace("\\\n", " ").splitlines()
            found += [("bash", line) for line in lines if line.strip() and not line.startswith("#")]
        else:
            found.append((language, text))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: one photograph, and a folder with two."""
    folder = tmp_path_factory.mktemp("user")
    Image.fromarray(data.astronaut()).save(folder / "photo.png")
    (folder / "photographs").mkdir()
    for number in range(2):
        crop = data.chelsea()[:128, 128 * number : 128 * (number + 1)]
        Image.fromarray(crop).save(folder / "photographs" / f"{number}.png")
    return folder


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("language", "text"), steps(), ids=lambda part: part.split("\n")[0][:60])
def test_what_the_readme_says_works(language: str, text: str, folder: Path) -> None:
    if language == "yaml":
        name = re.match(r"# (\S+\.yaml)\n", text)
        assert name, "the first line of a yaml block names its file: # job.yaml"
        (folder / name[1]).write_text(text)
    elif language == "python":
        _succeeds([sys.executable, "-c", text], folder)
    elif text.startswith("make "):
        _succeeds(["make", "-n", *text.split()[1:]], ROOT)
    elif not text.startswith(ELSEWHERE):
        _succeeds(["bash", "-c", text], folder)


def _succeeds(command: list[str], folder: Path) -> None:
    here = os.path.dirname(sys.executable)
    environment = os.environ | {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": "token",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST
    )
    assert done.returncode == 0, done.stdout + done.stderr
