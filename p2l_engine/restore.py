"""`restore`: a batch of measurements to a batch of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from p2l_engine import methods
from p2l_engine.arguments import check_conditions, check_measurements
from p2l_engine.mistakes import refuse
from p2l_engine.operators import LinearOperator
from p2l_engine.operators.base import lasting
from p2l_engine.operators.cropped import Cropped
from p2l_engine.priors.base import canvas
from p2l_engine.solvers import LatentState, Problem, Progress, Sampler, Solution, Solver, solve
from p2l_engine.solvers.base import limited
from p2l_engine.solvers.parts.shrinkage import shrunk
from p2l_engine.solvers.parts.total_variation import total_variation


@dataclass(frozen=True)
class Restored:
    """What `restore` returns for B images; rows of an image that failed hold not-a-number.

    images: (B, 3, H, W), RGB in [-1, 1], float32 (float64 for a float64 model); the mean of several samples,
        drawn `toward` another where the method says so.
    latents: (B, C, h, w), the last z_0 of the canvas (H and W rounded up to `model.image_multiple`);
        None for a solver without latents.
    prompt_embeddings: (B, L, D), as tuned at the last step; None for a solver without text. These two are of
        the first sample.
    residual: (B,), root mean square of y - A x over what A measures (holes of a mask do not count).
    errors: for each image None, or why and at which step it failed.
    nfe: evaluations of the noise prediction for each image.
    deviation: (B, 3, H, W), standard deviation of the samples in units of [-1, 1]; None for a single sample.
    """

    images: Tensor
    latents: Tensor | None
    prompt_embeddings: Tensor | None
    residual: Tensor
    errors: tuple[str | None, ...]
    nfe: int
    deviation: Tensor | None = None


@torch.inference_mode(False)
@torch.enable_grad()  # the methods differentiate, whatever the caller has switched off
def restore(
    model: Any | None,
    A: LinearOperator,
    y: Tensor,
    method: str | Solver = "p2l",
    steps: int | None = None,
    prompts: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    initial_latents: Tensor | None = None,
    prompt_embeddings: Tensor | None = None,
    progress: Progress | None = None,
    sigma: float = 0.0,
) -> Restored:
    """Restore x from y = A x + n for a batch; every image is treated as if it were alone.

    model: a prior of the kind that the method asks for, such as `load_model` gives; None for a method that
    needs none (adjoint, bicubic, tv).
    y: (B, *measurement), B at least 1, finite, of images in [-1, 1]; what the holes of a mask hold does not
    matter. Images of any size: the latent is that of a canvas rounded up to `model.image_multiple`, whose
    border the measurement says nothing of, and which is cropped at the end.
    method: a name with its defaults, or a value of `methods.build`. steps: instead of the method's.
    prompts: one an image, default the empty one; a pixel model reads none. seeds: one an image, default 0, of
    all that is drawn.
    initial_latents (B, C, h, w), for a pixel model (B, 3, H, W), prompt_embeddings (B, L, D): instead of what
    seeds and prompts would give.
    progress: called with (steps done, steps) after each step.
    sigma: standard deviation of n, in units of [-1, 1], for the methods that ask how noisy y is.

    An image whose trajectory meets not-a-number or infinity stops alone and is named in ``errors``. Works
    under torch.no_grad() and torch.inference_mode() as well; the result carries no graph. The same arguments
    give the same result to the bit on CPUs of one type; on GPUs to within rounding only.
    Raises ValueError, before any network runs, for arguments that do not fit together, and for pixels of 0
    to 255.
    """
    solver = methods.build(method) if isinstance(method, str) else method
    if not isinstance(solver, Solver):
        raise ValueError(
            f"method: got {type(method).__name__}; allowed: a name, or a solver as methods.build or, of a "
            "block of settings, methods.from_block makes it"
        )
    if steps is not None:
        if "steps" not in type(solver).model_fields:
            raise ValueError(f"steps: got {steps}; allowed: none, the method {solver.name} takes no steps")
        solver = methods.with_steps(solver, steps)
    check_measurements(A, y, sigma)
    model = _prior_of(solver, model)
    refuse(solver.too_small(model, A.image_shape(tuple(y.shape[1:]))[1:]), "method")
    model = solver.around(model)
    check_conditions(model, A, y, prompts, seeds, initial_latents, prompt_embeddings)
    solver.schedule(model)  # refuses more steps than there are, before a network runs
    samples, toward = (solver.samples, solver.toward) if isinstance(solver, Sampler) else (1, None)
    if samples > 1 and initial_latents is not None:
        raise ValueError(f"initial_latents: got one an image for {samples} samples of each; allowed: seeds")
    problem = pose(model, A, y, prompts, seeds, initial_latents, prompt_embeddings, sigma)
    solutions = [
        solve(model, solver, problem.sample(number), _part(progress, number, samples))
        for number in range(samples)
    ]

    y = problem.y
    A = A.to(y.device, y.dtype)
    images = torch.stack([_images(solution, A, y) for solution in solutions])
    mean = images.mean(dim=0) if samples > 1 else images[0]
    if samples > 1 and toward is not None:
        mean = shrunk(images, limited(total_variation(A, y, problem.noise_level)))
    state, places = solutions[0].state, solutions[0].places
    latent = isinstance(state, LatentState)
    return Restored(
        mean,
        _spread(state.z, places, len(y)) if latent else None,
        _spread(state.C, places, len(y)) if latent else None,
        _residual(A, y, mean),
        _errors(solutions, mean),
        sum(solution.nfe for solution in solutions),
        images.std(dim=0) if samples > 1 else None,
    )


def _prior_of(solver: Solver, model: Any) -> Any:
    """The model where the solver asks for one, which it must fit."""
    if solver.prior is None:
        return None
    if not hasattr(model, "kind"):
        without = [name for name, other in methods.SOLVERS.items() if other.prior is None]
        raise ValueError(
            f"model: got {model!r}; allowed: a {solver.prior} prior, as load_model gives it; the method "
            f"{solver.name} needs one, only {', '.join(without)} do without"
        )
    refuse(methods.misfits(solver, model), "method")
    return model


def pose(
    model: Any | None,
    A: LinearOperator,
    y: Tensor,
    prompts: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    initial_latents: Tensor | None = None,
    prompt_embeddings: Tensor | None = None,
    sigma: float = 0.0,
) -> Problem:
    """The problem of `restore`'s arguments, where the model computes and on the canvas that it takes."""
    seeds = [0] * len(y) if seeds is None else [int(seed) for seed in seeds]
    y = lasting(y.detach())
    if model is None:
        return Problem.of(A, A.observed(y), sigma, seeds)
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    A, y = A.to(model.device, dtype), y.to(model.device, dtype)
    y = A.observed(y)
    height, width = A.image_shape(tuple(y.shape[1:]))[1:]
    whole = canvas((height, width), model.image_multiple)
    if whole != (height, width):
        A = Cropped(A, (whole[0] - height, whole[1] - width))
    first = None if initial_latents is None else lasting(initial_latents.detach())
    if model.kind == "pixel":
        return Problem.of(A, y, sigma, seeds, first=first)
    if prompt_embeddings is None:
        C = model.embed_prompts(list(prompts) if prompts is not None else [""] * len(y))
    else:
        C = lasting(prompt_embeddings.detach()).to(model.device)
    return Problem.of(A, y, sigma, seeds, C.to(dtype), first)


def _part(progress: Progress | None, number: int, samples: int) -> Progress | None:
    """The progress of one of several samples, as a part of all."""
    if progress is None:
        return None
    return lambda done, steps: progress(number * steps + done, samples * steps)


def _images(solution: Solution, A: LinearOperator, y: Tensor) -> Tensor:
    """Of the whole batch, without the border of the canvas."""
    height, width = A.image_shape(tuple(y.shape[1:]))[1:]
    images = y.new_full((len(y), 3, height, width), torch.nan)
    if solution.places:
        images[solution.places] = limited(solution.images[..., :height, :width])
    return images


def _spread(values: Tensor, places: list[int], count: int) -> Tensor:
    """(count, ...): values at their places, not-a-number elsewhere."""
    spread = values.new_full((count, *values.shape[1:]), torch.nan)
    spread[places] = values.detach()
    return spread


@torch.no_grad()
def _residual(A: LinearOperator, y: Tensor, images: Tensor) -> Tensor:
    return ((y - A(images)).flatten(1).square().sum(dim=1) / A.entries(y).clamp_min(1)).sqrt()


def _errors(solutions: Sequence[Solution], images: Tensor) -> tuple[str | None, ...]:
    finite = torch.isfinite(images).flatten(1).all(dim=1).tolist()
    failed = {place: why for solution in reversed(solutions) for place, why in solution.errors.items()}
    why = "not-a-number or infinity in the decoded image"
    return tuple(failed.get(i, None if finite[i] else why) for i in range(len(images)))
