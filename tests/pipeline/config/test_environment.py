"""Reading a job looks at nothing but what is written; what it names is looked for before anything loads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ConfigError, JobConfig, load_config

JOB = {
    "input": "gs://bucket/in",
    "output": "gs://bucket/run",
    "storage": {"s3": {"secret": "env:NO_SUCH_VARIABLE_FOR_TEST"}},
    "model": {"id": "/no/such/model"},
    "operator": {"name": "linear", "function": "no_such_module_for_test:flip"},
    "method": {"name": "ldps", "preset": None, "steps": 5000},
}
LOOKS = ("open", "import", "os.", "socket.", "subprocess.", "glob.", "shutil.")


def looks_of(read: Callable[[], object]) -> list[str]:
    """What Python's audit tells of a call in this thread; its hooks stay, so that this one goes silent."""
    looks, listening, caller = list[str](), [True], threading.get_ident()

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and threading.get_ident() == caller and event.startswith(LOOKS):
            looks.append(f"{event} {arguments}")

    sys.addaudithook(listen)
    try:
        read()
    finally:
        listening.clear()
    return looks


def test_reading_looks_at_no_disk_no_network_and_no_code_of_the_users() -> None:
    config = JobConfig.model_validate(JOB)  # what Python loads as late as it can is loaded then
    assert looks_of(lambda: JobConfig.model_validate(JOB)) == []
    assert looks_of(Path(__file__).read_text)  # so that it would have been told
    assert config.size == "auto" and config.operator.name == "linear"
    assert config.model.id == "/no/such/model"
    with pytest.raises(ValueError, match="auto is not resolved"):
        _ = config.sides


def test_the_mistakes_of_both_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(JOB | {"noise": -1, "mode": "mesure"})
    told = [problem.split(": got")[0] for problem in refused.value.problems]
    assert told == [
        "storage.s3.secret: the environment variable NO_SUCH_VARIABLE_FOR_TEST is not set; set it for the "
        "command and for every worker",
        "mode",
        "model",
        "operator.function",
        "noise",
    ]
    with pytest.raises(ConfigError) as refused:
        load_config(JOB | {"storage": {}, "model": "tiny"})
    assert [problem.split(": got")[0] for problem in refused.value.problems] == [
        "operator.function",
        "method.steps",
    ]
