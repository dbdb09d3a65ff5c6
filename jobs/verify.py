"""`p2l verify`: check that a run's output is whole and true."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.console import Exit, output, readable_errors, run_alone, table


@readable_errors()
def verify(
    out: Annotated[str, typer.Argument(help="Output folder of a run; any fsspec URL.", show_default=False)],
) -> None:
    """Check that every input key has exactly one row, that images decode, and that metrics recompute.

    Exit status: 0 nothing wrong; 3 something is, each problem named.

    Example: p2l verify gs://bucket/runs/sr8
    """
    ...


if __name__ == "__main__":
    run_alone(verify)
