"""Solvers over pixels against a second, literal writing of each loop, one image at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.operators.base import LinearOperator
from p2l_engine.priors.pixel import PixelDiffusion
from p2l_engine.seeding import generator
from p2l_engine.solvers import Problem, Solver
from tests.p2l_engine.cases import blur, pooling

SIGMA = 0.05
Draw = Callable[[], Tensor]


class Loop:
    """What all the papers' loops begin with: the visited alpha_bar, x_t's noise and the clean image in it."""

    def __init__(self, model: PixelDiffusion, steps: int, label: int | None) -> None:
        self.times = [i * (1000 // steps) for i in range(steps)][::-1]
        self.table, self.model, self.label = model.process.alphas_cumprod, model, label

    def rows(self) -> list[tuple[int, Tensor, Tensor]]:
        """t, alpha_bar_t and alpha_bar_{t-1}."""
        before = [self.table[t] for t in self.times[1:]] + [torch.tensor(1.0, dtype=torch.float64)]
        return [(t, self.table[t], a_) for t, a_ in zip(self.times, before, strict=True)]

    def noise(self, x: Tensor, t: int) -> Tensor:
        return self.model.predict_noise(x, t, self.label)


def clean(x: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    return (x - (1 - a).sqrt() * eps) / a.sqrt()


def beta_tilde(a: Tensor, a_: Tensor) -> Tensor:
    return ((1 - a_) / (1 - a)).sqrt() * (1 - a / a_).sqrt()


def dds(loop: Loop, A: LinearOperator, y: Tensor, x: Tensor, draw: Draw, s: Any) -> Tensor:
    """Eq. 53 by a linear solve with A's matrix, and Eq. 54; or the authors' rule."""
    for t, a, a_ in loop.rows():
        eps = loop.noise(x, t)
        x0 = minimiser(A, y, clean(x, eps, a), s.weight)
        fresh = draw()
        if s.noise == "share":
            mixed = (1 - s.eta**2) ** 0.5 * eps + s.eta * fresh
            x = a_.sqrt() * x0 + (1 - a_).sqrt() * mixed
        else:
            b = beta_tilde(a, a_)
            x = a_.sqrt() * x0 + (1 - a_ - s.eta**2 * b**2).clamp_min(0).sqrt() * eps + s.eta * b * fresh
    return x


def diffpir(loop: Loop, A: LinearOperator, y: Tensor, x: Tensor, draw: Draw, s: Any) -> Tensor:
    """Eq. 55 by a linear solve with A's matrix, and Eq. 56."""
    for t, a, a_ in loop.rows():
        x0 = clean(x, loop.noise(x, t), a)
        x0 = x0.clamp(-1, 1) if s.clamp else x0
        x0 = minimiser(A, y, x0, s.weight * SIGMA**2 * a / (1 - a))
        hat = (x - a.sqrt() * x0) / (1 - a).sqrt()
        x = a_.sqrt() * x0 + (1 - a_).sqrt() * ((1 - s.zeta) ** 0.5 * hat + s.zeta**0.5 * draw())
    return x


def pigdm(loop: Loop, A: LinearOperator, y: Tensor, x: Tensor, draw: Draw, s: Any) -> Tensor:
    """Eq. 52 with the inverse that it has, added, and with the factors of the authors."""
    for t, a, a_ in loop.rows():
        x = x.detach().requires_grad_()
        eps = loop.noise(x, t)
        x0 = clean(x, eps, a)
        rows = matrix_of(A, x)
        inverse = (1 - a) * rows @ rows.T + SIGMA**2 * torch.eye(len(rows), dtype=x.dtype)
        bracket = torch.linalg.solve(inverse, (y - A(x0)).detach().flatten())
        g = torch.autograd.grad(bracket @ A(x0).flatten(), x)[0]
        with torch.no_grad():
            b = s.eta * beta_tilde(a, a_)
            x = a_.sqrt() * x0 + (1 - a_ - b**2).clamp_min(0).sqrt() * eps + b * draw()
            x = x + a_.sqrt() * a.sqrt() * (1 - a) * g
    return x


def dps(loop: Loop, A: LinearOperator, y: Tensor, x: Tensor, draw: Draw, s: Any) -> Tensor:
    """Eq. 51; where x_0|t is clamped, through the clamp."""
    for t, a, a_ in loop.rows():
        x = x.detach().requires_grad_()
        eps = loop.noise(x, t)
        x0 = clean(x, eps, a)
        if s.clamp:
            x0 = torch.minimum(torch.maximum(x0, -torch.ones_like(x0)), torch.ones_like(x0))
            eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
        g = torch.autograd.grad((y - A(x0)).square().sum().sqrt(), x)[0]
        with torch.no_grad():
            b = s.eta * beta_tilde(a, a_)
            x = a_.sqrt() * x0 + (1 - a_ - b**2).clamp_min(0).sqrt() * eps + b * draw() - s.step_size * g
    return x


REFERENCES: dict[str, Callable[..., Tensor]] = {"dds": dds, "diffpir": diffpir, "pigdm": pigdm, "dps": dps}
METHODS: dict[str, Solver] = {
    "DiffPIR": methods.build("diffpir", steps=3, weight=35.0, zeta=0.35, class_label=1),
    "DiffPIR, clamped": methods.build("diffpir", steps=4, weight=0.25, zeta=1.0, clamp=True),
    "PiGDM": methods.build("pigdm", steps=3, class_label=3),
    "PiGDM, eta 0": methods.build("pigdm", steps=4, eta=0.0),
    "DPS": methods.build("dps", steps=3, class_label=0),
    "DPS, clamped": methods.build("dps", steps=4, step_size=0.5, eta=0.0, clamp=True),
    "DDS": methods.build("dds", steps=3, class_label=2),
    "DDS, eta 0": methods.build("dds", steps=4, eta=0.0, weight=0.3),
    "DDS, a share": methods.build("dds", steps=3, eta=0.85, noise="share"),
}


def matrix_of(A: LinearOperator, x: Tensor) -> Tensor:
    basis = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape[1:])
    return torch.cat([A(column[None]).flatten(1) for column in basis]).T


def minimiser(A: LinearOperator, y: Tensor, x: Tensor, weight: float | Tensor) -> Tensor:
    """argmin_u |y - A u|^2 + weight |u - x|^2 of one image, by Gaussian elimination."""
    rows = matrix_of(A, x)
    left = rows.T @ rows + weight * torch.eye(x.numel(), dtype=x.dtype)
    return torch.linalg.solve(left, rows.T @ y.flatten() + weight * x.flatten()).view_as(x)


def masks(rows: slice) -> LinearOperator:
    """Of three images, each with its own."""
    masks = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    return operators.build("inpainting", mask="given", masks=masks[rows].double())


def model_for(solver: Solver, plain: PixelDiffusion, labelled: PixelDiffusion) -> PixelDiffusion:
    return plain if getattr(solver, "class_label", None) is None else labelled


@pytest.mark.parametrize(("make", "count"), [(pooling, 2), (masks, 3), (blur, 2)])
@pytest.mark.parametrize("name", METHODS)
def test_the_loop_is_the_papers(
    pixel_model: PixelDiffusion,
    labelled_pixel_model: PixelDiffusion,
    name: str,
    make: Callable[[slice], LinearOperator],
    count: int,
) -> None:
    """In float64, of each image of a batch."""
    solver = METHODS[name]
    model = model_for(solver, pixel_model, labelled_pixel_model)
    source = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, 8, 8, dtype=torch.float64, generator=source) * 1.4 - 0.7
    A, seeds = make(slice(None)), [4, 2, 7][:count]
    y = A.measure(x, SIGMA, [generator(seed, "noise") for seed in seeds])
    out = restore(model, A, y, solver, seeds=seeds, sigma=SIGMA)
    assert out.errors == (None,) * count and out.nfe == len(solver.schedule(model))
    loop = Loop(model, len(solver.schedule(model)), getattr(solver, "class_label", None))
    for place, seed in enumerate(seeds):
        row = slice(place, place + 1)
        first = torch.randn(3, 8, 8, generator=generator(seed, "latent"))[None].double()
        drawn = generator(seed, "solver")
        expected = REFERENCES[solver.name](
            loop,
            make(row),
            y[row],
            first,
            lambda drawn=drawn: torch.randn(3, 8, 8, generator=drawn)[None].double(),
            solver,
        )
        torch.testing.assert_close(out.images[row], expected.clamp(-1, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("data", ["masks", "kernels"])
@pytest.mark.parametrize("name", METHODS)
def test_an_image_does_not_depend_on_its_neighbours(
    pixel_model: PixelDiffusion, labelled_pixel_model: PixelDiffusion, name: str, data: str
) -> None:
    solver, seeds = METHODS[name], [3, 1, 4, 1, 5]
    model = model_for(solver, pixel_model, labelled_pixel_model)
    source = torch.Generator().manual_seed(3)
    drawn = torch.rand(5, 1, 8, 8, dtype=torch.float64, generator=source)
    kernels = torch.rand(5, 1, 5, 5, dtype=torch.float64, generator=source)
    kernels = kernels / kernels.sum(dim=(2, 3), keepdim=True)
    y = torch.rand(5, 3, 8, 8, dtype=torch.float64, generator=source) * 2 - 1
    kept = (drawn < torch.linspace(0.2, 0.9, 5).view(5, 1, 1, 1)).double()

    def run(order: list[int]) -> Tensor:
        A = (
            operators.build("inpainting", mask="given", masks=kept[order])
            if data == "masks"
            else operators.build("blur", kernels=kernels[order])
        )
        return restore(model, A, y[order], solver, seeds=[seeds[i] for i in order], sigma=SIGMA).images

    together = run([0, 1, 2, 3, 4])
    assert torch.allclose(run([4, 2, 0, 1, 3]), together[[4, 2, 0, 1, 3]], atol=1e-9)
    assert torch.allclose(torch.cat([run([i]) for i in range(5)]), together, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_step_leaves_has_no_history(
    pixel_model: PixelDiffusion, labelled_pixel_model: PixelDiffusion, name: str
) -> None:
    """So that memory does not grow with the steps."""
    solver = METHODS[name]
    model = model_for(solver, pixel_model, labelled_pixel_model)
    y = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    problem = Problem.of(operators.build("denoising"), y, SIGMA, [0])
    at = solver.schedule(model)[0]
    assert not solver.step(model, problem, solver.start(model, problem), at).x.requires_grad


def test_any_size_is_restored_on_a_canvas_that_fits(pixel_model: PixelDiffusion) -> None:
    y = torch.rand(2, 3, 13, 18, dtype=torch.float64) * 2 - 1
    out = restore(pixel_model, operators.build("denoising"), y, METHODS["DDS, eta 0"])
    assert out.images.shape == y.shape and out.errors == (None, None)


def test_noise_to_start_from_may_be_given(pixel_model: PixelDiffusion) -> None:
    A, y = operators.build("denoising"), torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    first = torch.randn(3, 8, 8, generator=generator(5, "latent"))[None]
    given = restore(pixel_model, A, y, METHODS["DDS, eta 0"], initial_latents=first)
    assert torch.equal(given.images, restore(pixel_model, A, y, METHODS["DDS, eta 0"], seeds=[5]).images)
    with pytest.raises(ValueError, match=r"initial_latents: got .*\(1, 3, 4, 4\).*\(1, 3, 8, 8\)"):
        restore(pixel_model, A, y, METHODS["DDS, eta 0"], initial_latents=first[..., :4, :4])


@pytest.mark.parametrize(
    ("which", "label", "match"),
    [
        ("labelled", None, "class_label: got none; allowed: 0 to 3, the model takes one of 4"),
        ("labelled", 4, "class_label: got 4; allowed: 0 to 3"),
        ("plain", 1, "class_label: got 1; allowed: null, the model takes none"),
    ],
)
def test_a_label_goes_with_the_network(
    pixel_model: PixelDiffusion,
    labelled_pixel_model: PixelDiffusion,
    which: str,
    label: int | None,
    match: str,
) -> None:
    model = labelled_pixel_model if which == "labelled" else pixel_model
    before, y = model.evaluations, torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=match):
        restore(model, operators.build("denoising"), y, methods.build("dds", class_label=label, steps=1))
    assert model.evaluations == before


def test_a_method_on_a_model_of_the_other_kind_is_refused(
    pixel_model: PixelDiffusion, random_model: Any
) -> None:
    A, y = operators.build("denoising"), torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(
        ValueError, match="got p2l, which needs a latent model, for a pixel one; allowed: .*dds"
    ):
        restore(pixel_model, A, y, "p2l")
    with pytest.raises(
        ValueError, match="got dds, which needs a pixel model, for a latent one; allowed: p2l"
    ):
        restore(random_model, A, y, "dds")
