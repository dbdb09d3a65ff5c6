"""`p2l prompts`: what a run's tuned prompts have become, and their mean to start another run from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.console import BadRequest, readable_errors, run_alone, table


@readable_errors()
def prompts(
    out: Annotated[str, typer.Argument(help="Output folder of a run; any fsspec URL.", show_default=False)],
    captions: Annotated[
        Path | None,
        typer.Option(help="Texts, one a line, among which the nearest are looked for.", show_default=False),
    ] = None,
    words: Annotated[
        bool, typer.Option(help="Look among the words of the model's vocabulary; slow without a GPU.")
    ] = True,
    images: Annotated[int, typer.Option(min=0, help="Rows of which the nearest are told.")] = 8,
) -> None:
    """Average the prompts that a run tuned, and tell which words they are near to, before and after.

    `keep` of the run has to name prompt_embedding. Writes prompt_embedding.npy, their mean, from which
    another job starts by `prompt_embeddings: OUT/prompt_embedding.npy`, and prompts.json for `p2l report`.

    Example: p2l prompts runs/sr4 --captions captions.txt
    """
    from pipeline.results.tuned_prompts import read_prompts

    try:
        texts = captions.read_text(encoding="utf-8").splitlines() if captions else []
    except OSError as error:
        raise BadRequest(f"--captions: {error}") from error
    told = read_prompts(out, [text for text in texts if text.strip()], words, images)
    rows = [("before tuning", told["before"])] if "before" in told else []
    rows += [(f"mean of {told['rows']}", told["mean"]), *told["images"].items()]
    kinds = [kind for kind in ("words", "captions") if kind in told["mean"]]
    table(
        ["prompt", "moved", *(f"nearest {kind}" for kind in kinds)],
        [[name, of.get("moved"), *(_listed(of[kind]) for kind in kinds)] for name, of in rows],
    )


def _listed(near: list[dict[str, Any]]) -> str:
    return ", ".join(f"{one['text']} ({one['distance']:.3g})" for one in near)


if __name__ == "__main__":
    run_alone(prompts)
