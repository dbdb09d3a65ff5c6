"""`p2l score`: distances of a run's images and of their set from the originals, by trained networks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.console import BadRequest, Exit, output, readable_errors, run_alone, table, warn


@readable_errors()
def score(
    out: Annotated[str, typer.Argument(help="Output folder of a run; any fsspec URL.", show_default=False)],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Another set of references: pictures, or an output. Default: the run's originals.",
        ),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Can be repeated. Default: all whose network is at hand."),
    ] = None,
    networks: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Folder or file of networks' weights. Default: P2L_NETWORKS, else where torch keeps them.",
        ),
    ] = None,
) -> None:
    """Score the whole shards of a run by trained networks: LPIPS, FID, KID, and EfficientNet's own.

    The same command goes on where it was stopped. Nothing is downloaded but what --networks names.

    Exit status: 0 all images scored; 3 some could not be; 1 could not complete; 2 bad request.

    Example: p2l score runs/sr4 --networks gs://bucket/networks --score lpips_vgg --score fid
    """
    from pipeline.observe.progress import say
    from pipeline.scores.request import request
    from pipeline.scores.score import score as run

    asked = request(out, score or (), networks, against)
    if not asked.weights:
        raise BadRequest(*asked.lacking)
    for sentence in asked.lacking:
        output.print(f"left out: {sentence}", soft_wrap=True)
    for one in asked.against.left_out if asked.against else ():
        output.print(str(one), soft_wrap=True)
    found = run(asked, say)
    table(["score", "value", "images", "references", "against"], _rows(found), title=asked.output.url)
    failed = sum(cause["count"] for cause in found["errors"])
    warn(*(f"{cause['count']} images: {cause['example']}" for cause in found["errors"]))
    raise typer.Exit(Exit.ROWS_FAILED if failed else Exit.OK)


def _rows(found: dict[str, Any]) -> list[list[Any]]:
    pairs = [
        [name, of["mean"], of["count"], of["count"], "each image's original"]
        for name, of in found["metrics"].items()
    ]
    columns = ("name", "value", "images", "references", "against")
    return pairs + [[one[column] for column in columns] for one in found["sets"]]


if __name__ == "__main__":
    run_alone(score)
