"""What `restore` refuses, before any network runs, and what it works under."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import load_model, methods, operators, restore
from p2l_engine.operators.base import LinearOperator
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.seeding import generator

SHAPE = (3, 16, 16)
QUICK = methods.build("p2l", prompt_tuning={"iterations": 1}, projection={"every": 1}, steps=2)


def images(count: int = 2) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.rand(count, *SHAPE, generator=source, dtype=torch.float64) * 2 - 1


@pytest.fixture
def idle_model(random_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> LatentDiffusion:
    """The model, whose networks must not be called."""

    def fail(*_: object) -> None:
        raise AssertionError("a network ran")

    for function in ("encode", "decode", "predict_noise", "embed_prompts"):
        monkeypatch.setattr(random_model, function, fail)
    return random_model


def refused(model: LatentDiffusion, match: str, y: Any = None, A: Any = None, **given: Any) -> None:
    A = operators.build("denoising") if A is None else A
    with pytest.raises(ValueError, match=match):
        restore(model, A, images() if y is None else y, **{"method": QUICK, **given})


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("prompts", "ab", r"prompts: got 'ab'; allowed: a list with one text an image; .*\['ab'\] \* 2"),
        ("prompts", ["a"], "prompts: got 1 for 2 measurements; allowed: a list with one text an image"),
        ("prompts", ["a", None], "prompts: got None, NoneType; allowed: a list with one text"),
        ("seeds", 0, r"seeds: got 0; allowed: a list with one whole number an image; .*\[0\] \* 2"),
        ("seeds", [0, 1.5], "seeds: got 1.5, float"),
        ("steps", 1001, "steps: got 1001, allowed is an integer from 1 to 1000"),
        ("steps", 2.0, "steps: got 2.0"),
        ("method", "p3l", "did you mean p2l"),
        ("sigma", -1.0, "sigma: got -1.0; allowed: a finite number of at least 0"),
        ("sigma", float("nan"), "sigma: got nan; allowed: a finite number"),
        ("sigma", None, "sigma: got None; allowed: a finite number"),
        ("sigma", torch.zeros(2), r"sigma: got tensor\(.*; allowed: a finite number of .* for all"),
        ("method", {"name": "tv"}, "method: got dict; allowed: a name, or a solver .* methods.from_block"),
        ("method", None, "method: got NoneType; allowed: a name"),
        (
            "initial_latents",
            torch.zeros(2, 4, 5, 4),
            r"initial_latents: got .*\(2, 4, 5, 4\).*\(2, 4, 4, 4\)",
        ),
        ("initial_latents", torch.zeros(2, 4, 4, 4, dtype=torch.int64), "initial_latents: got torch.int64"),
        ("prompt_embeddings", torch.zeros(2, 7, 3), r"prompt_embeddings: got .*\(2, any, \d+\)"),
        ("prompt_embeddings", torch.zeros(3, 7, 32), r"prompt_embeddings: got .*\(2, any, \d+\)"),
    ],
)
def test_what_accompanies_the_measurements_is_refused(
    idle_model: LatentDiffusion, name: str, value: Any, match: str
) -> None:
    refused(idle_model, match, **{name: value})


@pytest.mark.parametrize(
    ("y", "match"),
    [
        ((images() * 127.5 + 127.5).to(torch.uint8), r"got torch.uint8; allowed: .*y / 127.5 - 1"),
        (images() * 127.5 + 127.5, "no mean of pixels .* in measurement 0, 1; .*y / 127.5 - 1"),
        (images() * 3 + 5, "no mean of pixels"),  # a night of 2 to 8 of 255
        (images().to(torch.complex64), "got torch.complex64"),
        (images().half(), r"got torch.float16; allowed: .*float32 or float64, .*y.float\(\)"),
        (images().numpy(), "y: got ndarray"),
        (images()[:0], r"got no measurement \(shape \(0, 3, 16, 16\)\); allowed: a batch of at least 1"),
        (images()[0], r"got an image of shape \(16, 16\)"),
        (images()[:, :1], "images of 1 channels; allowed: 3"),
        (images().index_fill(0, torch.tensor(1), torch.nan), "infinity in measurement 1; allowed: finite"),
    ],
    ids=["uint8", "0 to 255", "dark", "complex", "half", "NumPy", "empty", "no batch", "grey", "NaN"],
)
def test_measurements_that_are_none_are_refused(idle_model: LatentDiffusion, y: Any, match: str) -> None:
    refused(idle_model, match, y)


def test_an_operator_that_does_not_fit_the_batch_is_refused(idle_model: LatentDiffusion) -> None:
    masks, kernels = torch.ones(3, 1, 16, 16), torch.ones(3, 1, 1, 1)
    refused(
        idle_model, "got 2 images for 3 masks", A=operators.build("inpainting", mask="given", masks=masks)
    )
    refused(idle_model, "got 2 images for 3 kernels", A=operators.build("blur", kernels=kernels))
    refused(idle_model, "A: got str; allowed: an operator", A="denoising")
    refused("tiny", "model: got 'tiny'; allowed: a latent prior, as load_model gives it")  # type: ignore[arg-type]


@pytest.mark.parametrize("sigma", [0.0, 0.01, 3.0, 100.0])
@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_no_noise_takes_a_measurement_for_one_of_0_to_255(sigma: float, value: float) -> None:
    masks = (torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.2).double()
    for A in (
        operators.build("denoising"),
        operators.build("super_resolution", factor=4),
        operators.build("inpainting", mask="given", masks=masks),
        operators.build("gaussian_blur", size=5),
    ):
        y = A.measure(
            torch.full((8, *SHAPE), value, dtype=torch.float64),
            sigma,
            [generator(seed, "noise") for seed in range(8)],
        )
        assert restore(None, A, y, "adjoint").errors == (None,) * 8


@pytest.mark.parametrize("steps", [0, -3, 2.5, True])
@pytest.mark.parametrize("name", ["ldps", "daps", "latino", "tv"])
def test_steps_in_place_of_the_methods_are_checked_as_settings_are(
    idle_model: LatentDiffusion, name: str, steps: Any
) -> None:
    allowed = "allowed: a number" if steps is True else "input should be"
    refused(idle_model, f"steps: got {steps}; {allowed}", method=name, steps=steps)


@pytest.mark.parametrize("held", [1.0, -1000.0])
@pytest.mark.parametrize("method", [QUICK, "tv", "adjoint"])
def test_what_holes_hold_changes_nothing(random_model: LatentDiffusion, method: Any, held: float) -> None:
    """To the bit, by the discrepancy rule and on a canvas too."""
    if method is QUICK:
        method = methods.build("p2l", prompt_tuning=None, projection={"weight": "discrepancy"}, finish={})
    masks = torch.rand(2, 1, 20, 16, generator=torch.Generator().manual_seed(1)) < 0.3
    A = operators.build("inpainting", mask="given", masks=masks)
    y = A(torch.cat([images(), images()[:, :, :4]], dim=2))
    steps = None if method == "adjoint" else 4
    expected, found = (
        restore(random_model, A, given, method, steps, sigma=0.05)
        for given in (y, torch.where(masks, y, held))
    )
    assert torch.equal(found.images, expected.images) and torch.equal(found.residual, expected.residual)


def test_an_operator_of_ones_own_may_have_any_range(random_model: LatentDiffusion) -> None:
    A = operators.linear(lambda x: 100 * x.sum(1, keepdim=True), SHAPE)
    y = A(torch.ones(1, *SHAPE, dtype=torch.float64))
    assert restore(random_model, A, y, "ldps", 1).errors == (None,)


MADE: dict[str, Callable[[], tuple[LinearOperator, Tensor]]] = {
    "inpainting": lambda: (
        operators.build(
            "inpainting", mask="random", generators=[generator(0, "operator")] * 2, image_shape=SHAPE
        ),
        images(),
    ),
    "blur": lambda: (
        operators.build("motion_blur", size=5, generators=[generator(0, "operator")] * 2),
        images(),
    ),
    "linear": lambda: (operators.linear(lambda x: x[..., ::2], SHAPE), images()[..., ::2]),
}


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", MADE)
def test_what_switches_gradients_off_changes_nothing(
    random_model: LatentDiffusion, name: str, switch: Callable[[], Any]
) -> None:
    def run() -> Tensor:
        A, y = MADE[name]()
        z, C = torch.zeros(2, 4, 4, 4, dtype=torch.float64), random_model.embed_prompts(["", "red"])
        return restore(random_model, A, y, QUICK, initial_latents=z, prompt_embeddings=C).images

    expected = run()
    with switch():
        found = run()
    assert torch.equal(found, expected) and not found.requires_grad


def test_a_model_loaded_in_inference_mode_serves_gradients() -> None:
    with torch.inference_mode():
        model = load_model("tiny")
    out = restore(model, operators.build("denoising"), images(1).float(), "ldps", 1)
    assert out.errors == (None,)


def test_the_same_seed_gives_the_same_image_whatever_torchs_default_dtype(
    random_model: LatentDiffusion,
) -> None:
    A = operators.build(
        "inpainting", mask="free_form", generators=[generator(3, "operator")], image_shape=SHAPE
    )

    def run() -> tuple[Tensor, Tensor]:
        y = A.measure(images(1), 0.1, [generator(2, "noise")])
        return y, restore(random_model, A, y, QUICK, seeds=[5]).images

    expected = run()
    torch.set_default_dtype(torch.float64)
    try:
        found = run()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("dropped", [0.0, 0.5, 0.8])
def test_the_residual_counts_what_is_measured(dropped: float) -> None:
    generators = [generator(seed, "operator") for seed in range(2)]
    A = operators.build(
        "inpainting", mask="random", fraction=dropped, generators=generators, image_shape=(3, 64, 64)
    )
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    y = A(1 + 0.05 * noise.abs())  # adjoint clamps to 1: what is above it is left
    expected = 0.05
    assert restore(None, A, y, "adjoint").residual.tolist() == pytest.approx([expected] * 2, rel=0.03)


def test_a_mask_of_holes_only_has_a_residual_of_0() -> None:
    A = operators.build("inpainting", mask="given", masks=torch.zeros(1, 1, 16, 16))
    assert restore(None, A, torch.zeros(2, *SHAPE), "adjoint").residual.tolist() == [0, 0]
