"""`restore`: a batch of measurements to a batch of images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2l_engine import methods
from p2l_engine.arguments import check_conditions, check_measurements
from p2l_engine.methods import Method
from p2l_engine.operators import LinearOperator
from p2l_engine.operators.base import lasting
from p2l_engine.operators.cropped import Cropped
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.seeding import generator
from p2l_engine.solvers.guidance import Moments
from p2l_engine.solvers.sampler import Progress, State, sample


@dataclass(frozen=True)
class Restored:
    """What `restore` returns for B images; rows of an image that failed hold not-a-number.

    images: (B, 3, H, W), RGB in [-1, 1], float32 (float64 for a float64 model).
    latents: (B, C, h, w), the last z_0 of the canvas (H and W rounded up to `model.image_multiple`);
        None for the method adjoint.
    prompt_embeddings: (B, L, D), as tuned at the last step; None for the method adjoint.
    residual: (B,), root mean square of y - A x over what A measures (holes of a mask do not count).
    errors: for each image None, or why and at which step it failed.
    nfe: evaluations of the noise prediction for each image.
    """

    images: Tensor
    latents: Tensor | None
    prompt_embeddings: Tensor | None
    residual: Tensor
    errors: tuple[str | None, ...]
    nfe: int


@torch.inference_mode(False)
@torch.enable_grad()  # the methods differentiate, whatever the caller has switched off
def restore(
    model: LatentDiffusion | None,
    A: LinearOperator,
    y: Tensor,
    method: str | Method = "p2l",
    steps: int | None = None,
    prompts: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    initial_latents: Tensor | None = None,
    prompt_embeddings: Tensor | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Restore x from y = A x + n for a batch; every image is treated as if it were alone.

    y: (B, *measurement), B at least 1, finite, of images in [-1, 1]. Images of any size: the latent is that
    of a canvas rounded up to `model.image_multiple`, whose border the measurement says nothing of, and which
    is cropped at the end.
    method: a name with its defaults, or a `Method`. steps: instead of the method's.
    prompts: one an image, default the empty one. seeds: one an image, default 0, of the first latent.
    initial_latents (B, C, h, w), prompt_embeddings (B, L, D): instead of what seeds and prompts would give.
    progress: called with (steps done, steps) after each step.

    An image whose trajectory meets not-a-number or infinity stops alone and is named in ``errors``. Works
    under torch.no_grad() and torch.inference_mode() as well; the result carries no graph. The same arguments
    give the same result to the bit on CPUs of one type; on GPUs to within rounding only.
    Raises ValueError, before any network runs, for arguments that do not fit together, and for pixels of 0
    to 255.
    """
    method = methods.build(method) if isinstance(method, str) else method
    if steps is not None:
        method = method.model_copy(update={"steps": steps})
    check_measurements(A, y)
    y = lasting(y.detach())
    height, width = A.image_shape(tuple(y.shape[1:]))[1:]
    if method.name == "adjoint":
        images = A.backproject(y).clamp(-1, 1)
        return Restored(images, None, None, _residual(A, y, images), _errors(len(y), {}, images), 0)
    if not isinstance(model, LatentDiffusion):
        raise ValueError(
            f"model: got {model!r}; allowed: what load_model gives; the method {method.name} needs one, only "
            "adjoint does without"
        )

    schedule = model.schedule(method.steps)
    bottom, right = -height % model.image_multiple, -width % model.image_multiple
    shape = (model.latent_channels, (height + bottom) // model.factor, (width + right) // model.factor)
    check_conditions(model, len(y), shape, prompts, seeds, initial_latents, prompt_embeddings)
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    A, y = A.to(model.device, dtype), y.to(model.device, dtype)
    canvas = Cropped(A, (bottom, right)) if bottom or right else A
    C = _embeddings(model, len(y), prompts, prompt_embeddings).to(dtype)
    z = _first_latents(len(y), shape, seeds, initial_latents).to(model.device, dtype)
    state = State(list(range(len(y))), canvas, y, z, C, Moments.zeros(z))

    state, failed = sample(model, state, method, schedule, progress)

    places = state.indices
    images = y.new_full((len(y), 3, height, width), torch.nan)
    latents, embeddings = torch.full_like(z, torch.nan), torch.full_like(C, torch.nan)
    if places:
        with torch.no_grad():
            images[places] = model.decode(state.z)[..., :height, :width].clamp(-1, 1)
        latents[places], embeddings[places] = state.z, state.C
    tuning = method.prompt_tuning.iterations if method.prompt_tuning else 0
    return Restored(
        images,
        latents,
        embeddings,
        _residual(A, y, images),
        _errors(len(y), failed, images),
        nfe=method.steps * (1 + tuning),
    )


def _embeddings(
    model: LatentDiffusion, count: int, prompts: Sequence[str] | None, given: Tensor | None
) -> Tensor:
    if given is None:
        return model.embed_prompts(list(prompts) if prompts is not None else [""] * count)
    return lasting(given.detach()).to(model.device)


def _first_latents(
    count: int, shape: tuple[int, int, int], seeds: Sequence[int] | None, given: Tensor | None
) -> Tensor:
    if given is not None:
        return lasting(given.detach())
    sources = (generator(int(seed), "latent") for seed in (seeds if seeds is not None else [0] * count))
    return torch.stack([torch.randn(shape, generator=source, dtype=torch.float32) for source in sources])


@torch.no_grad()
def _residual(A: LinearOperator, y: Tensor, images: Tensor) -> Tensor:
    return ((y - A(images)).flatten(1).square().sum(dim=1) / A.entries(y).clamp_min(1)).sqrt()


def _errors(count: int, failed: dict[int, str], images: Tensor) -> tuple[str | None, ...]:
    finite = torch.isfinite(images).flatten(1).all(dim=1).tolist()
    why = "not-a-number or infinity in the decoded image"
    return tuple(failed.get(i, None if finite[i] else why) for i in range(count))
