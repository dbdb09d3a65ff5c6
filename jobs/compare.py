"""`p2l compare`: runs on the same images, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.console import BadRequest, output, readable_errors, run_alone, table

if TYPE_CHECKING:
    from pipeline.results.compare import Difference


@readable_errors()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="OUT...", help="Output folders, the first is the baseline.")
    ],
) -> None:
    """Join runs on key and give the paired differences of their metrics, with 95 % confidence intervals.

    Scores too, where `p2l score` has made them; the intervals are by resampling images.

    Example: p2l compare runs/ldps runs/p2l
    """
    from pipeline.results.compare import compare as join

    try:
        comparison = join(runs)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    for run in runs[1:]:
        table(
            ["metric", "images", "first", "this", "difference", "95 % interval"],
            [_row(difference) for difference in comparison.differences if difference.run == run],
            title=f"{run} against {comparison.first}",
        )
    for note in comparison.notes:
        output.print(f"note: {note}", soft_wrap=True)


def _row(d: Difference) -> list[Any]:
    interval = "-" if d.low is None or d.high is None else f"{d.low:+.4g} to {d.high:+.4g}"
    return [d.metric, d.count, d.first_mean, d.mean, f"{d.difference:+.4g}", interval]


if __name__ == "__main__":
    run_alone(compare)
