"""`p2l verify`: check that a run's output is whole and true."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.console import Exit, output, readable_errors, run_alone


@readable_errors()
def verify(
    out: Annotated[str, typer.Argument(help="Output folder of a run; any fsspec URL.", show_default=False)],
) -> None:
    """Check that every input key has exactly one row, that images decode, and that metrics recompute.

    Exit status: 0 nothing wrong; 3 something is, each problem named.

    Example: p2l verify gs://bucket/runs/sr8
    """
    from pipeline.verify import verify as find_problems

    problems = find_problems(out)
    for problem in problems:
        output.print(str(problem), soft_wrap=True)
    if problems:
        output.print(f"{len(problems)} problems in {out}", soft_wrap=True)
        raise typer.Exit(Exit.ROWS_FAILED)
    output.print(f"{out}: whole and true", soft_wrap=True)


if __name__ == "__main__":
    run_alone(verify)
