"""`p2l image`: one picture, without a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.console import (
    BadRequest,
    Exit,
    errors,
    fail,
    output,
    readable_errors,
    run_alone,
    table,
    warn,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from p2l_engine.solvers import Progress
    from pipeline.config import JobConfig


@readable_errors()
def image(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="The picture.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The restored picture: .png, .webp, .tif or .jpg.", show_default=False
        ),
    ],
    operator: Annotated[str, typer.Option(help="What degrades it: super_resolution, inpainting, ...")],
    method: Annotated[
        str,
        typer.Option(
            help="p2l, ldps, gml_dps, psld, ldir, treg, resample, daps, latino, latino_pro; "
            "dps, diffpir, dds, pigdm; tv, bicubic, adjoint."
        ),
    ] = "p2l",
    model: Annotated[
        str | None,
        typer.Option(
            help="A hub id, a folder or a URL; by default tiny, or tiny-pixel for methods over pixels."
        ),
    ] = None,
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
    mask: Annotated[Path | None, typer.Option(help="For inpainting: white where observed.")] = None,
    kernel: Annotated[Path | None, typer.Option(help="For blur: a picture or .npy file.")] = None,
    prompt: Annotated[str, typer.Option(help="What the picture shows.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="A setting as in a job file; repeatable."),
    ] = None,
) -> None:
    """Degrade a picture, restore it, and write the result and a comparison.

    OUT gets the restored picture, and beside it OUT's name with .compare.png the degraded, the restored and,
    without --measurement, the original picture. A mask may have the size of IN or of OUT.

    Example: p2l image photo.png restored.png --operator super_resolution --set operator.factor=4
    """
    from jobs.pictures import files
    from pipeline.config import ConfigError, load_config
    from pipeline.stores.storage_options import configure

    model = model or _shipped(method)
    outputs = {"OUT": out, "the comparison": out.parent / f"{out.stem}.compare.png"}
    inputs = {"IN": source, "--mask": mask, "--kernel": kernel}
    problems = files.problems(outputs, inputs)
    read, unreadable = _read(inputs)
    problems += unreadable
    job = {
        "input": str(source),
        "output": str(out.parent),
        "mode": "restore" if measurement else "measure",
        "model": model,
        "size": size or ("auto" if _needs_model(method) and not measurement else None),
        "operator": {"name": operator} | ({"mask": "given"} if mask else {}),
        "method": _method(method, model, operator) | ({} if steps is None else {"steps": steps}),
        "prompt": prompt,
    }
    try:
        config = load_config(job, settings or ())
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    problems += _needs(config, mask, kernel)
    problems += [
        f"{name}: got one for a single picture; allowed: in a job of `p2l restore`"
        for name in ("prompt_embeddings", "caption")
        if getattr(config, name) is not None
    ]
    if measurement and size is not None:
        problems.append("--size: got one with --measurement, which takes IN as it is")
    if problems:
        raise BadRequest(*problems)
    configure(config.storage)
    try:
        _restore(config, source.name, read, outputs)
    except ValueError as error:  # of the picture, the operator on its size, or the model's name
        raise BadRequest(str(error)) from error


def _read(inputs: Mapping[str, Path | None]) -> tuple[dict[str, bytes | None], list[str]]:
    """The content of each file, and what is wrong with those that cannot be used."""
    from pipeline.pictures.images import decode_image
    from pipeline.pictures.masks import read_mask
    from pipeline.worker.measure import read_kernel

    check: dict[str, Callable[[bytes], object]] = {
        "IN": decode_image,
        "--mask": read_mask,
        "--kernel": read_kernel,
    }
    read: dict[str, bytes | None] = dict.fromkeys(inputs)
    problems = []
    for name, path in inputs.items():
        if path is None:
            continue
        try:
            read[name] = content = path.read_bytes()
            check[name](content)
        except OSError as error:
            problems.append(f"{name} {path}: cannot be read, {error.strerror or error}")
        except ValueError as error:
            problems.append(f"{name} {path}: {error}")
    return read, problems


def _needs(config: JobConfig, mask: Path | None, kernel: Path | None) -> list[str]:
    """What the operator takes and was not given, and what was given and it does not take."""
    name, needs = config.operator.name, config.operator.needs
    given = {"mask": mask, "kernel": kernel}
    return [
        f"operator {name}: takes a {part} from a file; give --{part}"
        for part in sorted(needs)
        if given.get(part) is None
    ] + [
        f"--{part}: operator {name} takes none"
        for part, path in given.items()
        if path is not None and part not in needs
    ]


def _method(name: str, model: str, operator: str) -> dict[str, Any]:
    """The method's block: the settings found for this model and operator, where there are any."""
    from p2l_engine.methods import SOLVERS, has_presets
    from p2l_engine.presets import PRESETS
    from p2l_engine.priors.fetch import SHIPPED

    if name not in SOLVERS or not has_presets(name):
        return {"name": name}
    papers = "paper" if SOLVERS[name].prior == "pixel" else "imagenet"
    preset = "tiny" if model in SHIPPED else papers
    return {"name": name} | ({"preset": preset} if operator in PRESETS[preset] else {})


def _shipped(method: str) -> str:
    """The small model that a method runs on."""
    from p2l_engine.methods import SOLVERS

    return "tiny-pixel" if method in SOLVERS and SOLVERS[method].prior == "pixel" else "tiny"


def _needs_model(method: str) -> bool:
    from p2l_engine.methods import SOLVERS

    return method not in SOLVERS or SOLVERS[method].prior is not None


def _restore(
    config: JobConfig, name: str, read: Mapping[str, bytes | None], outputs: Mapping[str, Path]
) -> None:
    from jobs.pictures import files, side_by_side
    from p2l_engine import metrics, restore
    from p2l_engine.priors.computing import check_device
    from pipeline.input.rows import InputRow
    from pipeline.worker.measure import measurements, prepare
    from pipeline.worker.memory import Memory
    from pipeline.worker.models import device_here, load, unread

    row = InputRow(
        key=name,
        source_shard="",
        image=read["IN"],
        mask=read["--mask"],
        kernel=read["--kernel"],
        prompt=config.prompt,
    )
    prepared = prepare(row, config)
    A, y = measurements([prepared], config)
    if prepared.doubt:
        warn(prepared.doubt)
    out, compared = outputs.values()
    out.parent.mkdir(parents=True, exist_ok=True)
    solver = config.method
    model = None
    if solver.prior is not None:
        size = A.image_shape(tuple(y.shape[1:]))[1:]
        device = device_here(config.model.device)
        check_device(device)
        fit = Memory(config, device, share=1).fit(size, 1)
        model = load(config.model, solver.prior)
        model.checkpoint_activations(fit.checkpointing)
    if solver.prior == "pixel" and (told := unread(model, config.prompt)):
        warn(told)

    start = time.perf_counter()
    with _progress() as advance:
        restored = restore(
            model,
            A,
            y,
            solver,
            prompts=[config.prompt],
            seeds=[prepared.seed],
            progress=advance,
            sigma=config.noise,
        )
    seconds = time.perf_counter() - start
    if restored.errors[0]:
        fail(restored.errors[0])
        raise typer.Exit(Exit.ROWS_FAILED)

    pixels = metrics.to_uint8(restored.images[0])
    files.write(out, pixels)
    original = prepared.pixels if config.mode == "measure" else None
    shown = [metrics.to_uint8(A.backproject(y)[0]), pixels, original]
    files.write(compared, side_by_side.row([picture for picture in shown if picture is not None]))
    _report(pixels, original, float(restored.residual[0]), seconds)
    output.print(f"{out}  {pixels.shape[1]}x{pixels.shape[0]}\n{compared}", soft_wrap=True)
    if out.suffix.lower() in files.LOSSY:
        warn(f"{out}: JPEG of quality 95 changes pixels a little; .png, .webp and .tif keep each of them")


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
    from pipeline.output.columns import METRICS
    from pipeline.worker.measure import against

    found: dict[str, float | None] = {"residual": residual, "seconds": seconds}
    if original is not None:
        found |= against(original, restored)
    facts = {metric.heading: found[metric.column] for metric in METRICS if metric.column in found}
    table(list(facts), [list(facts.values())])


if __name__ == "__main__":
    run_alone(image)
