"""What every command shares: exit statuses, readable errors, plain tables."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pipeline.input.rows import LeftOut

# Paths and keys may hold anything: [red] and :cat: in them are no markup.
output = Console(highlight=False, markup=False, emoji=False)
errors = Console(stderr=True, highlight=False, markup=False, emoji=False)


class Exit(IntEnum):
    """Exit statuses of every command."""

    OK = 0
    """Every row, or every check, is as it should be."""
    INCOMPLETE = 1
    """The command could not complete."""
    BAD_REQUEST = 2
    """The configuration or the command line is wrong; nothing was started."""
    ROWS_FAILED = 3
    """The command completed, and some rows are errors or fail the check."""
    LIMIT_REACHED = 4
    """A limit of the job file ended the run; rows are left, and the same command would end there again."""


class BadRequest(Exception):
    """The command line asks for something that cannot be; one argument a problem."""


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn a user's mistakes into messages and exit statuses; used as a decorator of each command.

    Faults of the program keep their traceback.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except BadRequest as error:
        raise _stop(Exit.BAD_REQUEST, *error.args) from None
    except KeyboardInterrupt:
        raise _stop(Exit.INCOMPLETE, "stopped; the same command goes on where it left off") from None
    except Exception as error:
        from pipeline.config import ConfigError
        from pipeline.input.rows import SourceError
        from pipeline.run.run import LimitError, RunError
        from pipeline.scores.score import ScoringError

        if isinstance(error, ConfigError):
            raise _stop(Exit.BAD_REQUEST, *error.problems) from None
        if isinstance(error, SourceError):
            raise _stop(Exit.BAD_REQUEST, *error.args) from None
        if isinstance(error, FileNotFoundError):
            raise _stop(Exit.BAD_REQUEST, str(error)) from None
        if isinstance(error, RunError):
            status = Exit.LIMIT_REACHED if isinstance(error, LimitError) else Exit.INCOMPLETE
            raise _stop(status, *error.args) from None
        if isinstance(error, ScoringError | OSError):
            raise _stop(Exit.INCOMPLETE, str(error)) from None
        raise


def warn(*sentences: str) -> None:
    """Say on standard error what can be done, but will hardly be meant."""
    _say("warning", "bold yellow", sentences)


def fail(*sentences: str) -> None:
    """Say on standard error what went wrong."""
    _say("error", "bold red", sentences)


def _say(label: str, style: str, sentences: Sequence[str]) -> None:
    from pipeline.messages import redact

    for sentence in sentences:
        errors.print(Text.assemble((label, style), " ", redact(sentence)), soft_wrap=True)


def tell_left_out(left_out: Iterable[LeftOut]) -> None:
    """Say on standard error what of the input becomes no row."""
    from pipeline.input.rows import merged

    for one in merged(left_out):
        errors.print(str(one), soft_wrap=True)


def _stop(status: Exit, *problems: str) -> typer.Exit:
    fail(*problems)
    return typer.Exit(status)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Print rows of text and numbers; all columns but the first are flush right."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(_cell, row))
    output.print(drawn)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_alone(command: Callable[..., None]) -> None:
    """Start one command by itself, for `python -m jobs.<name>`."""
    run_to_its_status(typer.run, command)


def run_to_its_status(run: Callable[..., None], *arguments: Any) -> None:
    """Run what ends in SystemExit, and end the process with that status.

    Ray's core now and then aborts the process that takes it down after all is done; so exit functions of
    Python run, and those of native code do not.
    """
    status = [int(Exit.INCOMPLETE)]
    atexit.register(_leave, status)  # the first to be registered is the last to run
    try:
        run(*arguments)
    except SystemExit as end:
        status[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _leave(status: list[int]) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a closed pipe or stream
            stream.flush()
    os._exit(status[0])
