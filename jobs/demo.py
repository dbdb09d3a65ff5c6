"""`p2l demo`: photographs degraded, restored, scored and shown, from one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import configs
from jobs.console import output, readable_errors, run_alone, table

if TYPE_CHECKING:
    from p2l_engine.tiny.collection import Photograph

SHOWN = ("mansion", "pool", "hallway_outdoors", "chalkboard")  # of the held-out photographs
DRAWN = "-whole"  # the crops that the picture shows
SCALES = {"whole": 1.0, "half": 0.5, "third": 1 / 3}  # of the photograph's shorter side


@readable_errors()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demonstration writes.")] = Path("p2l-demo"),
) -> None:
    """Restore photographs that the small shipped model never saw, and show what came out.

    Example: p2l demo
    """
    from pipeline.config import load_config
    from pipeline.results.report import write_report
    from pipeline.run.run import run

    photographs, restored = folder / "photographs", folder / "restored"
    write_photographs(photographs / "held_out.parquet")
    write_photograph(folder / "photo.png")
    job = load_config(configs.locate("demo"), [f"input={photographs}", f"output={restored}"])
    summary = run(job)
    page = write_report(job.output)
    _show(job.output)
    _draw(job.output, folder / "demo.png")
    output.print(f"\n{summary.ok} of {summary.rows} photographs restored in {summary.seconds:.0f} s")
    output.print(f"rows     {restored}/restored/*.parquet", soft_wrap=True)
    output.print(f"picture  {folder / 'demo.png'}\npage     {page}", soft_wrap=True)
    raise typer.Exit(summary.exit_status)


def write_photographs(path: Path) -> None:
    """One Parquet shard of squares from the middle of some held-out photographs, at several scales."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"key": f"{name}-{scale}", "image": _middle(photograph, share), "prompt": photograph.caption}
        for name, photograph in _photographs().items()
        for scale, share in SCALES.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_photograph(path: Path) -> None:
    """One held-out photograph whole, to try `p2l image` on."""
    from pipeline.pictures.images import encode_png

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(_photographs()[SHOWN[0]].pixels))


def _photographs() -> dict[str, Photograph]:
    from p2l_engine.tiny.collection import held_out_photographs

    known = held_out_photographs("test")
    return {name: known[name] for name in SHOWN}


def _middle(photograph: Photograph, share: float) -> bytes:
    """The middle square, `share` of the shorter side long, reduced to the small model's side; PNG."""
    from p2l_engine.tiny.data import reduced
    from pipeline.pictures.images import encode_png

    height, width = photograph.pixels.shape[:2]
    side = round(min(height, width) * share)
    return encode_png(reduced(photograph.pixels, (height - side) // 2, (width - side) // 2, side))


def _show(url: str) -> None:
    from pipeline.output.columns import METRICS
    from pipeline.output.folder import OutputFolder
    from pipeline.output.rows import all_rows

    names = ("key", *(metric.column for metric in METRICS))
    rows = sorted(all_rows(OutputFolder(url), names).to_pylist(), key=lambda row: str(row["key"]))
    table(
        ["photograph", *(metric.heading for metric in METRICS)],
        [[row[name] for name in names] for row in rows],
    )


def _draw(url: str, path: Path) -> None:
    """One picture: a row a photograph, measurement | restored | original."""
    import numpy as np

    from jobs.pictures import side_by_side
    from pipeline.output.folder import OutputFolder
    from pipeline.output.rows import all_rows, images
    from pipeline.pictures.images import decode_image, encode_png

    columns = ("measurement", "image", "reference")
    folder = OutputFolder(url)
    rows = all_rows(folder, ()).to_pylist()
    wanted = {row["key"] for row in rows if row["status"] == "ok" and row["key"].endswith(DRAWN)}
    found = images(folder, {row["file"]: wanted for row in rows}, columns)
    cells = [
        [np.asarray(decode_image(found[key][name]["bytes"])) for name in columns] for key in sorted(found)
    ]
    path.write_bytes(encode_png(side_by_side.sheet(cells)))


if __name__ == "__main__":
    run_alone(demo)
