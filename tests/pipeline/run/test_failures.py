"""What ends a run is said in one message; the errors that no test can bring about on a sound machine."""

from __future__ import annotations

import errno

import pytest
from ray import exceptions

from pipeline.run.failures import explain


@pytest.mark.parametrize(
    ("error", "what", "advice"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left", "Free some for out"),
        (
            PermissionError(errno.EACCES, "denied", "out/x"),
            "denied: 'out/x'",
            "choose another input or output",
        ),
        (exceptions.ObjectStoreFullError("full"), "object store is full", "more object_store_memory"),
        (exceptions.OutOfDiskError("full"), "the disk that it spills to", "Free some"),
        (exceptions.OutOfMemoryError("killed"), "killed", "batch_size or workers lower"),
        (exceptions.ActorDiedError(), "died", "batch_size or workers lower"),
    ],
)
def test_a_message_says_what_happened_and_what_to_do(error: Exception, what: str, advice: str) -> None:
    for raised in (error, exceptions.RayTaskError("task", "a traceback\nof lines", error)):
        message = explain(raised, "out")
        assert what in message and advice in message and len(message.splitlines()) == 1


def test_an_unknown_error_speaks_for_itself() -> None:
    assert explain(ValueError("3 apples"), "out") == "3 apples"
    assert explain(ValueError(), "out") == "ValueError"
