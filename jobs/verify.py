"""`p2l verify`: check that a run's output is whole and true."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.console import Exit, output, readable_errors, run_alone, warn


@readable_errors()
def verify(
    out: Annotated[str, typer.Argument(help="Output folder of a run; any fsspec URL.", show_default=False)],
    sample: Annotated[
        int | None,
        typer.Option(min=0, help="So many rows, drawn at random, have their pixels checked. Default: all."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other rows.")] = 0,
) -> None:
    """Check that every input key has exactly one row, that images decode, and that metrics recompute.

    Rows whose residual is not that of the noise are warned of.

    Exit status: 0 nothing wrong; 3 something is, each problem named.

    Example: p2l verify gs://bucket/runs/sr8 --sample 1000
    """
    from pipeline.results.verify import examine

    found = examine(out, sample, seed)
    for problem in found.problems:
        output.print(str(problem), markup=False, soft_wrap=True)
    drawn = "" if sample is None else f", drawn with seed {seed}; the pixels of the others were not looked at"
    output.print(
        f"keys and columns of {found.rows} rows checked, pixels and metrics of {found.in_full}{drawn}",
        soft_wrap=True,
    )
    warn(*found.warnings)
    if found.problems:
        output.print(f"{len(found.problems)} problems in {out}", markup=False, soft_wrap=True)
        raise typer.Exit(Exit.ROWS_FAILED)
    true = "whole and true" if found.in_full == found.rows else "whole, and true as far as checked"
    output.print(f"{out}: {true}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_alone(verify)
