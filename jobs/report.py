"""`p2l report`: the page that shows a run."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.console import output, readable_errors, run_alone


@readable_errors()
def report(
    out: Annotated[str, typer.Argument(help="Output folder of a run; any fsspec URL.", show_default=False)],
) -> None:
    """Write report.html into the output folder: one file with the pictures, the metrics and the errors.

    Works while a run is under way, too.

    Example: p2l report gs://bucket/runs/sr8
    """
    from pipeline.results.report import write_report

    output.print(str(write_report(out)), soft_wrap=True)


if __name__ == "__main__":
    run_alone(report)
