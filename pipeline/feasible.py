"""What a job asks for that cannot be, for its model, size and steps; found before anything loads."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch

from p2l_engine import methods
from p2l_engine.mistakes import Mistakes
from p2l_engine.operators import OperatorSettings
from p2l_engine.presets import OF_SHIPPED
from p2l_engine.priors.architecture import Architecture, is_near, read_architecture
from p2l_engine.priors.fetch import SHIPPED
from p2l_engine.priors.lora import is_here, read_adapter
from p2l_engine.solvers import Sampler, Solver
from pipeline import limits
from pipeline.accelerators import datasheet_tflops
from pipeline.stores import retries, storage_options

if TYPE_CHECKING:
    from pipeline.config import JobConfig, ModelConfig

USUAL_TIMESTEPS = 1000  # of the published models of Stable Diffusion 1.x and 2.x


def own_side(model: ModelConfig, stores: storage_options.Options) -> int:
    """The side in pixels that a model was trained at. Raises Mistakes where that cannot be known."""
    try:
        return architecture_of(model, stores).native_size
    except (OSError, ValueError) as error:
        _pass_by(model, error)
        raise Mistakes(
            [
                f"size: got auto, the model's own side, which cannot be read ({error}); "
                "allowed: a side in pixels, [height, width], or null"
            ]
        ) from error


def steps_problems(model: ModelConfig, solver: Sampler, stores: storage_options.Options) -> list[str]:
    """What is wrong with its steps. Of a model that is elsewhere nothing is fetched for usual numbers."""
    steps = solver.steps
    if steps <= solver.within(USUAL_TIMESTEPS) and not is_near(model.id):
        return []
    try:
        timesteps = architecture_of(model, stores).timesteps
    except (OSError, ValueError) as error:
        _pass_by(model, error)
        return [f"steps: got {steps}; allowed: as many as the model has, which cannot be read ({error})"]
    if steps <= (most := solver.within(timesteps)):
        return []
    taken = "the" if most == timesteps else f"those up to warm_start.at of the {timesteps}"
    return [f"steps: got {steps}; allowed: 1 to {most}, {taken} timesteps that the model was trained with"]


def model_problems(
    model: ModelConfig, solver: Solver, size: tuple[int, int] | None, stores: storage_options.Options
) -> list[str]:
    """Why the method cannot run on the model, at a size; read from elsewhere only where it asks of it."""
    takes_any = solver.prior == "latent" and not solver.asks_of_model()
    if solver.prior is None or (takes_any and not is_near(model.id)):
        return []
    try:
        architecture = architecture_of(model, stores)
        found = methods.misfits(solver, architecture)
        return found if found or size is None else solver.too_small(architecture, size)
    except (OSError, ValueError) as error:
        _pass_by(model, error)
        return [
            f"name: got {solver.name}; allowed: with a {solver.prior} model; this cannot be read ({error})"
        ]


def _pass_by(model: ModelConfig, error: Exception) -> None:
    """Raises an error of a store that is out of reach, which is no mistake of the job's."""
    if "://" in model.id and retries.name(error):
        raise error


def adapter_problems(model: ModelConfig) -> list[str]:
    """Why the model's adapter does not fit it, where both are here; others are seen when they load."""
    if model.lora is None or not (is_here(model.lora) and is_near(model.id)):
        return []
    from p2l_engine.priors.load import adapter_misfits  # which imports the networks' classes: seconds

    try:
        return adapter_misfits(read_adapter(model.lora), read_architecture(model.id, model.revision))
    except (OSError, ValueError) as error:
        return [f"lora: got {model.lora!r}, with a model that cannot be read ({error})"]


def operator_problems(operator: OperatorSettings, size: tuple[int, int]) -> list[str]:
    """Why an operator cannot apply to pictures of a size (height, width); it is built to find out.

    Masks and kernels that come with the rows are not known here, and none are drawn for pictures beyond what
    is restored of the data's own sizes: what does not fit is that row's error.
    """
    if operator.needs or math.prod(size) > limits.RESTORED_PIXELS:
        return []
    try:
        built = operator.example(1, (3, *size))
    except ValueError as error:
        return [str(error)]
    if not built.entries(torch.zeros(1, *built.measurement_shape((3, *size)))).any():
        return [
            f"{operator.name}: no pixel of {size[0]}x{size[1]} is observed; allowed: a smaller fraction, or "
            "size"
        ]
    return []


def slow_dtype(dtype: str) -> list[str]:
    """What to know of a dtype for which GPUs have no fast units."""
    if dtype not in ("float32", "float64"):
        return []
    rate, best = (datasheet_tflops("a100", name) for name in (dtype, "bfloat16"))
    return [
        f"model.dtype is {dtype}, of which an A100 does {rate:g} TFLOP/s by its datasheet, and {best:g} in "
        "bfloat16, which auto takes there; tf32 is between them"
    ]


def warnings(config: JobConfig) -> list[str]:
    """What can run, but will hardly be meant."""
    found = [f"method.{doubt}" for doubt in config.method.doubts()]
    preset = config.method.preset if isinstance(config.method, Sampler) else None
    if preset in OF_SHIPPED and config.model.id not in SHIPPED and config.method.prior is not None:
        found.append(
            f"method.preset is {preset}, chosen on the shipped model; what it reaches with {config.model.id} "
            "was not measured"
        )
    if config.mode == "restore" and config.fit != type(config).model_fields["fit"].default:
        found.append(f"fit is {config.fit}, but measurements are restored as they are in mode restore")
    if config.mode == "restore" and "size" in config.model_fields_set and config.size is not None:
        found.append("size is given, but measurements are restored at their own in mode restore")
    if config.prompt and config.method.prior is None:
        found.append(f"prompt is given, but the method {config.method.name} has no model that reads one")
    commit, batch = config.commit_every, config.batch_size
    if isinstance(commit, int) and isinstance(batch, int) and commit < batch:
        found.append(
            f"batch_size is {batch}, above commit_every, {commit}: no more than {commit} images are restored "
            "together"
        )
    return found


def architecture_of(model: ModelConfig, stores: storage_options.Options) -> Architecture:
    """A model's architecture, without its weights. Raises as `read_architecture`, after retries.

    What a store's client raises, such as for want of credentials, is an OSError here.
    """
    read = partial(read_architecture, model.id, model.revision)
    if "://" not in model.id:
        return read()
    storage_options.configure(stores)
    try:
        return retries.retried(read, f"model {model.id}")
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise OSError(f"{model.id}: {' '.join(str(error).split())}") from error
