"""What ended a run, in one message that says what to do."""

from __future__ import annotations

import errno

from ray import exceptions

GOES_ON = "What is committed stays, and the same command goes on from there"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
RAY_ADVICE = "\nFailed to apply UDF transform"  # lines that Ray Data adds to an error, about its own settings


class LimitReached(RuntimeError):
    """A limit that the job sets is reached; the same job would only reach it again."""


def explain(error: BaseException, output: str) -> str:
    """One message about an error that ended a run on `output`."""
    cause = error.cause if isinstance(error, exceptions.RayTaskError) else error
    text = str(cause).split(RAY_ADVICE)[0].strip() or type(cause).__name__
    if isinstance(cause, OSError) and cause.errno in FULL:
        return f"no space left ({text}). Free some for {output} and Ray's temporary files. {GOES_ON}"
    if isinstance(cause, OSError) and cause.errno in FORBIDDEN:
        return f"not allowed: {text}. Allow it, or choose another input or output (now {output}). {GOES_ON}"
    if isinstance(cause, exceptions.ObjectStoreFullError | exceptions.OutOfDiskError):
        return (
            "Ray's object store is full, and so is the disk that it spills to. Free some, or start Ray with "
            f"more object_store_memory. {GOES_ON}"
        )
    if isinstance(cause, exceptions.RayActorError) and "creation task" in text:
        return f"no worker could start: {text.splitlines()[-1].strip()} Mend that. {GOES_ON}"
    if isinstance(
        cause, exceptions.RayActorError | exceptions.OutOfMemoryError | exceptions.WorkerCrashedError
    ):
        return (
            f"a worker died: {text.splitlines()[0].strip()} If memory ran out, set batch_size or workers "
            f"lower. {GOES_ON}"
        )
    return text
