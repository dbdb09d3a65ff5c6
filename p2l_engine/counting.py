"""What a method computes and holds, counted on tensors without data: seconds for a network of any size.

Tensors of torch's device `meta` have shapes and no numbers, so that a step of the real sampler through the
real networks runs without weights, and each operation and each allocation of it is seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, library
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop, sdpa_flop

from p2l_engine.operators import LinearOperator
from p2l_engine.operators.base import ImageShape, Shape
from p2l_engine.priors.base import canvas
from p2l_engine.priors.load import Model
from p2l_engine.solvers import Problem, Sampler, Solver, evaluations

for _attention, _formula in (  # on CPUs; torch's table has those of GPUs only
    (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, sdpa_flop),
    (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, sdpa_backward_flop),
):
    if _attention not in flop_registry:
        register_flop_formula(_attention, get_raw=True)(_formula)


class OperationCounter(TorchDispatchMode):
    """Counts the floating-point operations of matrix products, convolutions and attention, backward ones too.

    torch's own FlopCounterMode follows modules with hooks that fail under `torch.autograd.grad`; only its
    formulas are used. peak_bytes: the most that the tensors made under it held at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0
        self.peak_bytes = 0
        self._bytes = 0
        self._held: set[int] = set()  # storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flop += formula(*args, **(kwargs or {}), out_val=out)
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(out):
            if storage._cdata not in given:  # no view of a weight
                self._hold(storage)
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._held:
            return
        self._held.add(place)
        self._bytes += size
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        weakref.finalize(storage, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self._held.discard(place)
        self._bytes -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as devices make it, without the matrix of every pair; on `meta` torch takes the plain way."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out: Tensor = flash(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return out


_ON_META = library.Library("aten", "IMPL")  # what it holds ends with it
_ON_META.impl("scaled_dot_product_attention", _fused, "AutogradMeta")


class OfShape(LinearOperator):
    """An operator of shapes alone: beside the networks, what the real one computes is nothing."""

    name = "shapes"

    def __init__(self, image: ImageShape, measurement: Shape) -> None:
        self._image, self._measurement = image, measurement

    def measurement_shape(self, image_shape: Shape) -> Shape:
        return self._measurement

    def image_shape(self, measurement_shape: Shape) -> ImageShape:
        return self._image

    def __call__(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(dim=1)
        return mean.view(-1, *(1 for _ in self._measurement)).expand(-1, *self._measurement)

    def proximal(self, y: Tensor, x: Tensor, lam: float | Tensor) -> Tensor:
        return x

    def proximal_early(self, y: Tensor, x: Tensor, lam: float | Tensor, iterations: int) -> Tensor:
        return x

    def glue(self, y: Tensor, x: Tensor) -> Tensor:
        return x

    def backproject(self, y: Tensor) -> Tensor:
        return y.new_empty(len(y), *self._image)


@dataclass(frozen=True)
class Part:
    """What a solver does `times` times: its start and end together once, and a step of each kind."""

    times: int
    run: Callable[[], object]


def parts(prior: Any, solver: Solver, problem: Problem) -> Iterator[Part]:
    """All that restoring a problem takes, as one of each part that costs the same."""
    samples = solver.samples if isinstance(solver, Sampler) else 1
    prior = solver.around(prior)
    schedule = solver.schedule(prior)
    state = solver.start(prior, problem)

    def ends() -> None:
        with torch.no_grad():
            solver.finished(prior, problem, solver.start(prior, problem))

    yield Part(samples, ends)
    kinds = Counter(solver.kind(at) for at in schedule)
    for kind, at in {solver.kind(at): at for at in schedule}.items():
        yield Part(samples * kinds[kind], partial(solver.step, prior, problem, state, at))


@dataclass(frozen=True)
class Count:
    """flop, nfe: of an image. step_bytes: the most that a step holds beside the weights, in float32."""

    flop: float
    nfe: int
    step_bytes: int


def count_solver(
    prior: Model | None, image: ImageShape, measurement: Shape, batch: int, solver: Solver
) -> Count:
    """What restoring a batch takes, from one pass through each part.

    prior: of `p2l_engine.priors.load.without_weights`. image, measurement: the shapes of one of them.
    """
    multiple, C = 1, None
    if prior is not None:
        multiple = prior.image_multiple
        if prior.kind == "latent":
            C = torch.empty(batch, *prior.embedding_shape, device=prior.device)
    y = torch.empty(batch, *measurement, device="meta")
    problem = Problem.of(OfShape((3, *canvas(image[1:], multiple)), measurement), y, 0.0, range(batch), C)

    flop = nfe = step_bytes = 0
    for part in parts(prior, solver, problem):
        before = evaluations(prior)
        with OperationCounter() as counter:
            part.run()
        flop += part.times * counter.flop
        nfe += part.times * (evaluations(prior) - before)
        step_bytes = max(step_bytes, counter.peak_bytes)
    return Count(flop / batch, nfe // batch, step_bytes)
