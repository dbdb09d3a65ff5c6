"""`restore` against a second writing of the paper's algorithms, and what it promises of batches and sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.counting import OperationCounter
from p2l_engine.operators.base import LinearOperator
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.seeding import generator
from p2l_engine.solvers.p2l import P2L
from tests.p2l_engine.cases import CASES, tuned_prompt

METHODS: dict[str, Any] = {
    "P2L, gradient descent": methods.build(
        "p2l", prompt_tuning={"iterations": 2, "learning_rate": 0.01}, projection={"every": 2, "weight": 0.3}
    ),
    "P2L, Adam": methods.build(
        "p2l", prompt_tuning={"iterations": 1}, guidance={"rule": "adam", "step_size": 0.1}
    ),
    "P2L, gluing": methods.build("p2l", prompt_tuning=None, projection={"every": 1, "onto": "gluing"}),
    "P2L, squared, alpha_bar": methods.build(
        "p2l",
        prompt_tuning=None,
        projection={"onto": "none"},
        guidance={"residual": "squared", "step_size": 0.01, "step_schedule": "alpha_bar"},
    ),
    "P2L, squared, tuned": methods.build(
        "p2l",
        prompt_tuning={"iterations": 1, "learning_rate": 0.01},
        projection={"every": 2, "weight": 0.1},
        guidance={"residual": "squared", "step_size": 0.01},
    ),
    "P2L, fewer steps, tuned early, no way back through the network": methods.build(
        "p2l",
        prompt_tuning={"iterations": 2, "learning_rate": 0.01, "between": [0.5, 1.0], "through": "network"},
        projection={"every": 2, "weight": 0.3},
        guidance={"step_size": 0.1, "for_steps": 30, "variable": "z_0"},
    ),
    "P2L, fresh noise": methods.build(
        "p2l",
        prompt_tuning=None,
        projection={"every": 1, "weight": 0.3, "fresh_noise": 0.75},
        guidance={"step_size": 0.1},
    ),
    "P2L, warm start": methods.build(
        "p2l", prompt_tuning=None, guidance={"step_size": 0.1}, warm_start={"at": 0.25}
    ),
    "LDPS": methods.build("ldps"),
    "GML-DPS": methods.build("gml_dps"),
    "PSLD": methods.build("psld"),
    "LDIR": methods.build("ldir"),
}


def reference(
    model: LatentDiffusion, A: LinearOperator, y: Tensor, z: Tensor, C: Tensor, method: P2L, T: int, seed: int
) -> Tensor:
    """Algorithms 1, 2, 3 and Eq. 44, 45 for one image, written from the paper apart from the library."""
    table = model.process.alphas_cumprod
    available = int(method.warm_start.at * 1000) if method.warm_start else 1000
    times = [i * (available // T) + 1 for i in range(T)][::-1]
    if method.warm_start:
        begun = model.encode(restore(None, A, y, "tv").images)
        z = table[times[0]].sqrt() * begun + (1 - table[times[0]]).sqrt() * z
    m, v, source = torch.zeros_like(z), torch.zeros_like(z), generator(seed, "solver")

    def clean(z: Tensor, C: Tensor, t: int) -> tuple[Tensor, Tensor]:
        eps = model.predict_noise(z, t, C)
        return eps, (z - (1 - table[t]).sqrt() * eps) / table[t].sqrt()

    def norm(r: Tensor) -> Tensor:
        return (r * r).sum().sqrt()

    for i, t in enumerate(times):
        step, before = T - i, table[times[i + 1]] if i + 1 < T else table[0]
        tuning = method.prompt_tuning
        if tuning and tuning.between[0] * T <= step <= tuning.between[1] * T:
            C = tuned_prompt(model, A, y, z, C, t, tuning.iterations, tuning.learning_rate, tuning.through)
        z = z.detach().requires_grad_()
        eps, z0 = clean(z, C, t)
        assert method.guidance is not None
        r = norm(y - A(model.decode(z0)))
        value = r if method.guidance.residual == "norm" else r * r
        if (term := method.guidance.fixed_point) is not None:
            x0 = model.decode(z0)
            if term.onto == "gluing":
                x0 = A.glue(y, x0)
            value = value + term.weight * norm(z0 - model.encode(x0))
        g = torch.autograd.grad(value, z0 if method.guidance.variable == "z_0" else z)[0]
        with torch.no_grad():
            tilde = z0
            if method.projection and step % method.projection.every == 0:
                x0 = model.decode(z0)
                if method.projection.onto == "proximal":
                    assert method.projection.weight != "discrepancy"
                    x0 = A.proximal(y, x0, method.projection.weight)
                elif method.projection.onto == "gluing":
                    x0 = A.glue(y, x0)
                tilde = model.encode(x0)
                if step > 1 and (share := method.projection.fresh_noise):
                    fresh = torch.randn(z.shape[1:], generator=source).to(z)[None]
                    eps = (1 - share) ** 0.5 * eps + share**0.5 * fresh
            rho = method.guidance.step_size * (
                table[t] if method.guidance.step_schedule == "alpha_bar" else 1
            )
            if method.guidance.for_steps:
                rho = rho * method.guidance.for_steps / T
            if method.guidance.rule == "adam":
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                g = (m / 0.1) / (v / 0.001 + 1e-8).sqrt()
            z = before.sqrt() * tilde + (1 - before).sqrt() * eps - rho * g
    return z


@pytest.mark.parametrize(("make", "count"), CASES)
@pytest.mark.parametrize("name", METHODS)
def test_the_loop_is_the_papers_algorithm(
    random_model: LatentDiffusion, name: str, make: Callable[[slice], LinearOperator], count: int
) -> None:
    """In float64, to the latents of each image of a batch; the reference sees one image at a time."""
    steps, tuning, seeds = 3, METHODS[name].prompt_tuning, [5, 6, 7][:count]
    source = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=source) * 2 - 1
    z = torch.randn(count, 4, 4, 4, dtype=torch.float64, generator=source)
    A = make(slice(None))
    y = A(x)
    C = random_model.embed_prompts(["a red square", "", "blue stripes"][:count])
    out = restore(
        random_model, A, y, METHODS[name], steps, seeds=seeds, initial_latents=z, prompt_embeddings=C
    )
    assert out.latents is not None
    for row in (slice(place, place + 1) for place in range(count)):
        expected = reference(
            random_model, make(row), y[row], z[row], C[row], METHODS[name], steps, seeds[row.start]
        )
        torch.testing.assert_close(out.latents[row], expected, rtol=0, atol=1e-7)
    tuned = sum(tuning.between[0] <= number / steps for number in (1, 2, 3)) if tuning else 0
    assert out.nfe == steps + (tuning.iterations * tuned if tuning else 0)


def _masked_batch() -> tuple[Tensor, Tensor, list[str], list[int]]:
    masks = (torch.rand(5, 1, 16, 16) < torch.linspace(0.2, 0.9, 5).view(5, 1, 1, 1)).double()
    x = torch.rand(5, 3, 16, 16, dtype=torch.float64) * 2 - 1
    return masks, masks * x, ["", "a red square", "blue stripes", "", "red"], [3, 1, 4, 1, 5]


@pytest.mark.parametrize("data", ["masks", "kernels"])
@pytest.mark.parametrize("name", ["P2L, gradient descent", "P2L, Adam", "PSLD"])
def test_an_image_does_not_depend_on_its_neighbours(
    random_model: LatentDiffusion, name: str, data: str
) -> None:
    masks, y, prompts, seeds = _masked_batch()
    kernels = torch.rand(5, 1, 5, 5, dtype=torch.float64)
    kernels = kernels / kernels.sum(dim=(2, 3), keepdim=True)

    def run(order: list[int]) -> Tensor:
        given: dict[str, Any] = (
            {"masks": masks[order], "mask": "given"} if data == "masks" else {"kernels": kernels[order]}
        )
        A = operators.build("inpainting" if data == "masks" else "blur", **given)
        return restore(
            random_model,
            A,
            y[order],
            METHODS[name],
            2,
            [prompts[i] for i in order],
            [seeds[i] for i in order],
        ).images

    together = run([0, 1, 2, 3, 4])
    reordered = run([4, 2, 0, 1, 3])
    alone = torch.cat([run([i]) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-9)
    assert torch.allclose(reordered, together[[4, 2, 0, 1, 3]], atol=1e-9)


def test_not_a_number_stops_one_image_and_says_at_which_step(random_model: LatentDiffusion) -> None:
    masks, y, prompts, seeds = _masked_batch()
    A = operators.build("inpainting", mask="given", masks=masks)
    z = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    clean = restore(random_model, A, y, METHODS["P2L, Adam"], 4, prompts, initial_latents=z)
    z[2, 0, 0, 0] = torch.nan
    broken = restore(random_model, A, y, METHODS["P2L, Adam"], 4, prompts, initial_latents=z)
    assert broken.errors[2] is not None and "step 4 of 4" in broken.errors[2]
    others = [0, 1, 3, 4]
    assert [broken.errors[i] for i in others] == [None] * 4
    assert torch.allclose(broken.images[others], clean.images[others], atol=1e-9)
    assert broken.images[2].isnan().all()


@pytest.mark.parametrize("operator", ["inpainting", "motion_blur"])
def test_all_images_stop_though_each_has_a_mask_or_kernel_of_its_own(
    random_model: LatentDiffusion, operator: str
) -> None:
    settings = {"mask": "free_form"} if operator == "inpainting" else {"size": 5}
    sources = [generator(seed, "operator") for seed in range(2)]
    A = operators.build(operator, generators=sources, image_shape=(3, 16, 16), **settings)
    z = torch.full((2, 4, 4, 4), torch.nan)
    out = restore(random_model, A, torch.zeros(2, 3, 16, 16), "ldps", 4, initial_latents=z)
    assert out.errors == ("not-a-number or infinity at step 4 of 4",) * 2 and out.images.isnan().all()


@pytest.mark.parametrize("name", ["p2l", "latino"])
def test_an_image_that_the_decoder_makes_infinite_is_an_error(
    random_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    decode = random_model.decode

    def overflowing(z: Tensor) -> Tensor:
        x = decode(z)
        return torch.cat([x[:1] + torch.inf, x[1:]])

    monkeypatch.setattr(random_model, "decode", overflowing)
    unguided = dict.fromkeys(("guidance", "projection", "prompt_tuning")) if name == "p2l" else {}
    method = methods.build(name, steps=1, **unguided)
    out = restore(random_model, operators.build("denoising"), torch.zeros(2, 3, 16, 16), method)
    assert [error is None for error in out.errors] == [False, True]
    assert out.images[0].isnan().all() and out.images[1].isfinite().all()


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (32, 32), (20, 36), (13, 17)])
def test_any_size_is_restored_on_a_canvas_that_fits(
    random_model: LatentDiffusion, size: tuple[int, int]
) -> None:
    A = operators.build("denoising")
    y = torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1
    out = restore(random_model, A, y, METHODS["P2L, gradient descent"], 2)
    assert out.images.shape == y.shape
    assert torch.isfinite(out.images).all() and out.errors == (None, None)
    assert torch.allclose(out.residual, (y - out.images).flatten(1).square().mean(1).sqrt())


def test_progress_counts_the_steps(random_model: LatentDiffusion) -> None:
    seen: list[tuple[int, int]] = []
    y = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    restore(random_model, operators.build("denoising"), y, "ldps", 3, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_what_no_part_reads_is_not_decoded(
    random_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without guidance: the images of the steps that project, and the result."""
    decoded: list[Tensor] = []
    genuine = random_model.decode

    def decode(z: Tensor) -> Tensor:
        decoded.append(z)
        return genuine(z)

    monkeypatch.setattr(random_model, "decode", decode)
    method = methods.build("p2l", prompt_tuning=None, guidance=None, projection={"every": 3})
    restore(random_model, operators.build("denoising"), torch.zeros(1, 3, 16, 16), method, 7)
    assert len(decoded) == 2 + 1


def test_a_projection_adds_nothing_to_what_a_step_holds(random_model: LatentDiffusion) -> None:
    A, y = operators.build("denoising"), torch.zeros(1, 3, 32, 32)

    def peak(projection: dict[str, Any] | None) -> int:
        with OperationCounter() as counter:
            restore(random_model, A, y, methods.build("ldps", projection=projection), 1)
        return counter.peak_bytes

    assert peak({"every": 1}) == pytest.approx(peak(None), rel=0.02)


def test_a_seed_names_its_first_latent(random_model: LatentDiffusion) -> None:
    A, y = operators.build("denoising"), torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    z = torch.stack([torch.randn(4, 4, 4, generator=generator(seed, "latent")) for seed in (3, 5)])
    seeded = restore(random_model, A, y, "ldps", 2, seeds=[3, 5])
    assert torch.equal(seeded.images, restore(random_model, A, y, "ldps", 2, initial_latents=z).images)


def test_the_images_are_those_of_the_latents(random_model: LatentDiffusion) -> None:
    y = torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1
    out = restore(random_model, operators.build("denoising"), y, METHODS["P2L, Adam"], 2)
    assert out.latents is not None
    assert torch.allclose(random_model.decode(out.latents).clamp(-1, 1), out.images, atol=1e-9)


def test_the_embeddings_are_the_tuned_ones(random_model: LatentDiffusion) -> None:
    """Adam's first step moves a number by the learning rate, whatever its gradient."""
    y = torch.rand(1, 3, 16, 16, dtype=torch.float64) * 2 - 1
    C = random_model.embed_prompts(["a red square"])
    method = methods.build("p2l", prompt_tuning={"iterations": 1, "learning_rate": 0.01})
    out = restore(random_model, operators.build("denoising"), y, method, 1, prompt_embeddings=C)
    assert out.prompt_embeddings is not None
    assert float((out.prompt_embeddings - C).abs().median()) == pytest.approx(0.01, rel=0.01)


def test_arguments_that_do_not_fit_are_named(random_model: LatentDiffusion) -> None:
    A, y = operators.build("denoising"), torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match="prompts: got 1 for 2"):
        restore(random_model, A, y, prompts=["one"])
    with pytest.raises(ValueError, match="seeds: got 3 for 2"):
        restore(random_model, A, y, seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="initial_latents"):
        restore(random_model, A, y, initial_latents=torch.zeros(2, 4, 5, 5))
    with pytest.raises(ValueError, match="model: got None"):
        restore(None, A, y)
