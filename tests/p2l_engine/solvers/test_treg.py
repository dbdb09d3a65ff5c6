"""TReg against a second writing of the authors' loop, and its parts against what each must be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from p2l_engine import methods, operators, restore
from p2l_engine.operators.base import LinearOperator
from p2l_engine.priors.image_tower import load_tower
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.seeding import generator
from p2l_engine.solvers import Problem
from p2l_engine.solvers.treg import DataConsistency, TReg, fit_measurement
from tests.p2l_engine.cases import CASES, blur, mask

METHODS: dict[str, Any] = {
    "authors": methods.build("treg", null_prompt="blue", negation={"tower": "tiny"}),
    "no negation": methods.build("treg", guidance_scale=2.0, data={"every": 2, "until": 1.0}),
    "Eq. 50": methods.build(
        "treg",
        guidance={"residual": "squared", "step_size": 0.01},
        data={"every": 1, "iterations": None, "weight": 0.1},
    ),
}


def conjugate_gradients(A: LinearOperator, y: Tensor, x: Tensor, lam: float, iterations: int) -> Tensor:
    """From the textbook, for one image."""
    r = A.adjoint(y) + lam * x - A.adjoint(A(x)) - lam * x
    p = r
    for _ in range(iterations):
        if float(r.norm()) < 1e-10:
            break
        applied = A.adjoint(A(p)) + lam * p
        length = (r * r).sum() / (p * applied).sum()
        x, r, last = x + length * p, r - length * applied, (r * r).sum()
        p = r + (r * r).sum() / last * p
    return x


def reference(
    model: LatentDiffusion, A: LinearOperator, y: Tensor, z: Tensor, C: Tensor, method: TReg, seed: int
) -> Tensor:
    """The authors' loop for one image, with the gradient of Eq. 50 where it is asked for."""
    T, table, source = method.steps, model.process.alphas_cumprod, generator(seed, "solver")
    times = [i * (1000 // T) + 1 for i in range(T)][::-1]
    null = model.embed_prompts([method.null_prompt])
    for k, t in enumerate(times):
        a, before = table[t], table[times[k + 1]] if k + 1 < T else torch.tensor(1.0, dtype=torch.float64)
        z = z.detach().requires_grad_()
        out, text = model.predict_noise(z, t, null), model.predict_noise(z, t, C)
        e = out + method.guidance_scale * (text - out)
        z0 = (z - (1 - a).sqrt() * e) / a.sqrt()
        gradient = torch.zeros_like(z)
        if method.guidance is not None:
            distance = (y - A(model.decode(z0))).square().sum()
            gradient = method.guidance.step_size * torch.autograd.grad(distance, z)[0]
        with torch.no_grad():
            if k % method.data.every == 0 and k < method.data.until * T:
                x0, weight = model.decode(z0), method.data.weight
                xy = conjugate_gradients(A, y, x0, weight, method.data.iterations or 500)
                zy = model.encode(xy)
                if method.negation is not None:
                    null = negated(model, xy, null, method.negation.learning_rate)
                n = torch.randn(z.shape[1:], generator=source).to(z)[None]
                z_next = before.sqrt() * (before * zy + (1 - before) * z0) + (1 - before) * e
                z_next = z_next + ((1 - before) * before).sqrt() * n
            else:
                z_next = before.sqrt() * z0 + (1 - before).sqrt() * e
            z = z_next - gradient
    return z


def negated(model: LatentDiffusion, x: Tensor, null: Tensor, rate: float) -> Tensor:
    """Ten steps of torch's Adam down the mean inner product."""
    feature = load_tower("tiny", model.device, model.dtype)(x)
    assert float(feature.norm()) == pytest.approx(1)
    null = null.clone().requires_grad_()
    adam = torch.optim.Adam([null], lr=rate)
    for _ in range(10):
        with torch.enable_grad():
            similarity = (feature @ null.permute(0, 2, 1)).mean()
        (null.grad,) = torch.autograd.grad(similarity, null)
        adam.step()
    return null.detach()


@pytest.mark.parametrize(("make", "count"), CASES)
@pytest.mark.parametrize("name", METHODS)
def test_the_loop_is_the_authors_algorithm(
    random_model: LatentDiffusion, name: str, make: Callable[[slice], LinearOperator], count: int
) -> None:
    method = METHODS[name].model_copy(update={"steps": 5})
    source = torch.Generator().manual_seed(0)
    A = make(slice(None))
    y = A(torch.rand(count, 3, 16, 16, dtype=torch.float64, generator=source) * 2 - 1)
    z = torch.randn(count, 4, 4, 4, dtype=torch.float64, generator=source)
    prompts, seeds = ["a red square", "", "blue stripes"][:count], [5, 6, 7][:count]
    out = restore(random_model, A, y, method, prompts=prompts, seeds=seeds, initial_latents=z)
    assert out.latents is not None and out.nfe == 10
    C = random_model.embed_prompts(prompts)
    for place in range(count):
        row = slice(place, place + 1)
        expected = reference(random_model, make(row), y[row], z[row], C[row], method, seeds[place])
        torch.testing.assert_close(out.latents[row], expected, rtol=0, atol=1e-6)


def test_an_image_does_not_depend_on_its_neighbours(random_model: LatentDiffusion) -> None:
    y = torch.rand(3, 3, 16, 16, dtype=torch.float64) * 2 - 1
    prompts, seeds, method = ["", "a red square", "blue"], [3, 1, 4], METHODS["authors"]

    def run(order: list[int]) -> Tensor:
        A = mask(slice(None)).select(order)
        chosen = [prompts[i] for i in order], [seeds[i] for i in order]
        return restore(random_model, A, A(y[order]), method, 4, *chosen).images

    together = run([0, 1, 2])
    assert torch.allclose(torch.cat([run([i]) for i in range(3)]), together, atol=1e-9)
    assert torch.allclose(run([2, 0, 1]), together[[2, 0, 1]], atol=1e-9)


@pytest.mark.parametrize(("make", "count"), CASES)
def test_the_data_step_minimises_equation_47(make: Callable[[slice], LinearOperator], count: int) -> None:
    """To 1e-6, by the normal equations written out as a matrix."""
    x = torch.rand(count, 3, 16, 16, dtype=torch.float64) * 2 - 1
    y, x0 = make(slice(None))(x), torch.rand(count, 3, 16, 16, dtype=torch.float64) * 2 - 1
    problem = Problem.of(make(slice(None)), y, 0.0, range(count))
    found = fit_measurement(problem, x0, DataConsistency(weight=1e-2, iterations=None))
    basis = torch.eye(3 * 256, dtype=torch.float64).view(-1, 3, 16, 16)
    for place in range(count):
        one = make(slice(place, place + 1))
        matrix = torch.cat([one(pixel[None]).flatten(1) for pixel in basis]).T
        right = matrix.T @ y[place].flatten() + 1e-2 * x0[place].flatten()
        exact = torch.linalg.solve(matrix.T @ matrix + 1e-2 * torch.eye(768, dtype=torch.float64), right)
        torch.testing.assert_close(found[place].flatten(), exact, rtol=0, atol=1e-6)


def test_stopping_early_leaves_weak_directions_near_the_image() -> None:
    """Of a blur, whose inverse makes noise large."""
    x = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    A = blur(slice(None))
    y = A(x) + 0.1 * torch.randn(
        2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    problem = Problem.of(A, y, 0.1, range(2))
    early, whole = (
        float(fit_measurement(problem, x, DataConsistency(iterations=count)).square().mean())
        for count in (5, None)
    )
    assert early < 0.5 * whole


@pytest.fixture
def wide_tower(tmp_path: Path) -> str:
    """A tower whose vectors are as wide as those of no model here."""
    config = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=16,
        patch_size=8,
        projection_dim=24,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "wide")
    return str(tmp_path / "wide")


def test_a_tower_of_another_width_is_refused_before_a_network_runs(
    random_model: LatentDiffusion, wide_tower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = methods.build("treg", negation={"tower": wide_tower})
    monkeypatch.setattr(random_model, "embed_prompts", None)  # would fail if it were called
    with pytest.raises(ValueError, match=r"negation.tower: got .*width 24; allowed: a tower of width 128"):
        restore(random_model, operators.build("denoising"), torch.zeros(1, 3, 16, 16), method)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "allowed: tiny, a folder of a CLIPVisionModelWithProjection"),
        ("{}", "a model of type None; allowed: clip_vision_model or clip"),
        ("no", "is not JSON"),
    ],
)
def test_what_is_no_tower_is_told(
    random_model: LatentDiffusion, tmp_path: Path, content: str | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
        (tmp_path / "model.safetensors").touch()
    name = str(tmp_path if content is not None else tmp_path / "nowhere")
    method = methods.build("treg", negation={"tower": name})
    with pytest.raises(ValueError, match=rf"negation.tower: got .*{why}"):
        restore(random_model, operators.build("denoising"), torch.zeros(1, 3, 16, 16), method)


def test_a_tower_is_loaded_once(random_model: LatentDiffusion) -> None:
    assert load_tower("tiny", random_model.device, random_model.dtype) is load_tower(
        "tiny", random_model.device, random_model.dtype
    )
    assert METHODS["authors"].load(random_model) > 1e5 and methods.build("treg").load(random_model) == 0
