"""`p2l restore`: run a job, or go on with one."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import configs
from jobs.console import output, readable_errors, run_alone, tell_left_out, warn

CONFIG_HELP = "Job file: a path, a URL, or the name of a ready one: " + ", ".join(configs.names()) + "."
SET_HELP = "Override a setting of the job file; can be repeated, and of two for one setting the last wins."


@readable_errors()
def restore(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, show_default=False)],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help=SET_HELP)] = None,
    shards: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Only the input shards whose name matches.")
    ] = None,
    retry_errors: Annotated[bool, typer.Option(help="Do the rows that failed again as well.")] = False,
    take_over: Annotated[
        bool, typer.Option(help="Take the output from another driver, which is dead or will stop.")
    ] = False,
) -> None:
    """Restore every image of a job. The same command goes on where a run was stopped.

    Exit status: 0 all rows restored; 3 complete, some rows are errors; 1 could not complete; 2 bad request;
    4 stopped at a limit of the job: budget, error_share.

    Example: p2l restore sr8 --set input=gs://bucket/shards --set output=gs://bucket/runs/sr8
    """
    from pipeline.config import load_config
    from pipeline.feasible import warnings
    from pipeline.run.run import run

    job = load_config(configs.locate(config), settings or ())
    warn(*warnings(job))
    summary = run(job, shards=shards, retry_errors=retry_errors, take_over=take_over)
    tell_left_out(summary.left_out)
    output.print(
        f"{summary.ok} of {summary.rows} rows restored, {summary.errors} errors, "
        f"{summary.seconds:.0f} s: {summary.output}",
        soft_wrap=True,
    )
    warn(*(f"{count} rows: {cause}; see their column warning" for cause, count in summary.warnings.items()))
    raise typer.Exit(summary.exit_status)


if __name__ == "__main__":
    run_alone(restore)
