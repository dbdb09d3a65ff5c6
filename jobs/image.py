"""`p2l image`: one picture, without a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.console import BadRequest, Exit, errors, output, readable_errors, run_alone, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from p2l_engine.sampler import Progress
    from pipeline.config import JobConfig


@readable_errors()
def image(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="The picture.", exists=True, dir_okay=False, show_default=False),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The restored picture, PNG.", show_default=False)
    ],
    operator: Annotated[str, typer.Option(help="What degrades it: super_resolution, inpainting, ...")],
    method: Annotated[str, typer.Option(help="p2l, ldps, gml_dps, psld, ldir or adjoint.")] = "p2l",
    model: Annotated[str, typer.Option(help="tiny, a hub id, a folder or a URL.")] = "tiny",
    steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps; by default the method's own."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side the picture is cropped to; by default the model's own.")
    ] = None,
    measurement: Annotated[
        bool, typer.Option("--measurement", help="IN is degraded already: restore it as it is.")
    ] = False,
    mask: Annotated[
        Path | None, typer.Option(help="For inpainting: white where observed.", exists=True, dir_okay=False)
    ] = None,
    kernel: Annotated[
        Path | None, typer.Option(help="For blur: a picture or .npy file.", exists=True, dir_okay=False)
    ] = None,
    prompt: Annotated[str, typer.Option(help="What the picture shows.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="A setting as in a job file; repeatable."),
    ] = None,
) -> None:
    """Degrade a picture, restore it, and write the result and a comparison.

    OUT gets the restored picture, and beside it OUT's name with .compare.png the degraded, the restored and,
    without --measurement, the original picture.

    Example: p2l image photo.png restored.png --operator super_resolution --set operator.factor=4
    """
    from pipeline.config import load_config
    from pipeline.storage_options import configure

    job = {
        "input": str(source),
        "output": str(out.parent),
        "mode": "restore" if measurement else "measure",
        "model": model,
        "size": size,
        "operator": {"name": operator} | ({"mask": "given"} if mask else {}),
        "method": _method(method, model, operator) | ({} if steps is None else {"steps": steps}),
        "prompt": prompt,
    }
    config = load_config(job, settings or ())
    configure(config.storage)
    try:
        _restore(config, source, out, mask, kernel)
    except ValueError as error:  # of the picture, the operator on its size, or the model's name
        raise BadRequest(str(error)) from error


def _method(name: str, model: str, operator: str) -> dict[str, Any]:
    """The method's block: the settings found for this model and operator, where there are any."""
    from p2l_engine.presets import PRESETS

    preset = "tiny" if model == "tiny" else "imagenet"
    known = name != "adjoint" and operator in PRESETS[preset]
    return {"name": name, "preset": preset if known else None}


def _restore(config: JobConfig, source: Path, out: Path, mask: Path | None, kernel: Path | None) -> None:
    from jobs import pictures
    from p2l_engine import metrics, restore
    from p2l_engine.methods import Method
    from pipeline.degrade import measurements, prepare
    from pipeline.images import encode_png
    from pipeline.models import load
    from pipeline.rows import InputRow

    method = Method.model_validate(config.method)
    model = None if method.name == "adjoint" else load(config.model)
    if model is not None and config.size is None and config.mode == "measure":
        config = config.model_copy(update={"size": (model.native_size, model.native_size)})
    row = InputRow(
        key=source.name,
        source_shard="",
        image=source.read_bytes(),
        mask=mask.read_bytes() if mask else None,
        kernel=kernel.read_bytes() if kernel else None,
        prompt=config.prompt,
    )
    prepared = prepare(row, config)
    A, y = measurements([prepared], config)

    start = time.perf_counter()
    with _progress() as advance:
        restored = restore(
            model, A, y, method, prompts=[config.prompt], seeds=[prepared.seed], progress=advance
        )
    seconds = time.perf_counter() - start
    if restored.errors[0]:
        errors.print(f"[bold red]error[/] {restored.errors[0]}")
        raise typer.Exit(Exit.ROWS_FAILED)

    pixels = metrics.to_uint8(restored.images[0])
    compared = out.with_suffix(".compare.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(encode_png(pixels))
    original = prepared.pixels if config.mode == "measure" else None
    shown = [metrics.to_uint8(A.backproject(y)[0]), pixels, original]
    compared.write_bytes(encode_png(pictures.row([picture for picture in shown if picture is not None])))
    _report(pixels, original, float(restored.residual[0]), seconds)
    output.print(f"{out}  {pixels.shape[1]}x{pixels.shape[0]}\n{compared}", soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar that goes when it is done; nothing where the output is no terminal."""
    from rich.progress import Progress as Bar

    with Bar(console=errors, transient=True) as bar:
        task = bar.add_task("restoring", total=None)
        yield lambda done, steps: bar.update(task, completed=done, total=steps)


def _report(
    restored: NDArray[np.uint8], original: NDArray[np.uint8] | None, residual: float, seconds: float
) -> None:
    from p2l_engine import metrics

    facts: dict[str, float | None] = {"residual": residual, "seconds": seconds}
    if original is not None:
        facts = {
            "PSNR dB": metrics.psnr(original, restored),
            "SSIM": metrics.ssim(original, restored),
            **facts,
        }
    table(list(facts), [list(facts.values())])


if __name__ == "__main__":
    run_alone(image)
