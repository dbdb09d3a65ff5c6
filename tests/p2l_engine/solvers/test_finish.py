"""The proximal map by the discrepancy rule: after the last decoding, and in the projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from p2l_engine import methods, operators, restore
from p2l_engine.operators.base import LinearOperator
from p2l_engine.operators.linear import linear
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.solvers import Problem, solve
from p2l_engine.solvers.base import Finish
from tests.p2l_engine.cases import CASES, blur, independent

SIGMA = 0.1


def measured(A: LinearOperator, count: int) -> torch.Tensor:
    """y of smooth images, whose noise is such that no restoration in pixels clips it."""
    sources = [torch.Generator().manual_seed(i) for i in range(count)]
    x = torch.rand(count, 3, 4, 4, dtype=torch.float64, generator=sources[0]) - 0.5
    return A.measure(torch.nn.functional.interpolate(x, scale_factor=4), SIGMA, sources)


@pytest.mark.parametrize(("make", "count"), CASES)
def test_what_is_left_of_the_measurement_is_its_noise(
    random_model: LatentDiffusion, make: Callable[[slice], LinearOperator], count: int
) -> None:
    A = make(slice(None))
    y = measured(A, count)
    plain, finished = (
        restore(random_model, A, y, methods.build("ldps", steps=3, finish=finish), sigma=SIGMA)
        for finish in (None, {"weight": "discrepancy"})
    )
    assert (plain.residual > 2 * SIGMA).all()
    torch.testing.assert_close(
        finished.residual, torch.full_like(finished.residual, SIGMA), rtol=0.03, atol=0
    )
    assert plain.latents is not None and finished.latents is not None
    assert torch.equal(plain.latents, finished.latents) and plain.nfe == finished.nfe


def test_a_number_is_the_weight_of_the_proximal_map(random_model: LatentDiffusion) -> None:
    A, y = blur(slice(None)), measured(blur(slice(None)), 2)
    build: Any = methods.build
    plain = restore(random_model, A, y, build("p2l", steps=3))
    finished = restore(random_model, A, y, build("p2l", steps=3, finish={"weight": 0.5}))
    assert plain.latents is not None
    expected = A.proximal(y, random_model.decode(plain.latents), 0.5).clamp(-1, 1)
    torch.testing.assert_close(finished.images, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("by", ["proximal", "total_variation"])
def test_an_image_does_not_depend_on_its_neighbours(random_model: LatentDiffusion, by: str) -> None:
    settings: dict[str, Any] = {"finish": {"by": by}, "projection": {"weight": "discrepancy", "every": 1}}
    independent(random_model, methods.build("p2l", steps=3, **settings))


@pytest.mark.parametrize(("make", "count"), CASES)
def test_by_total_variation_what_is_added_is_its_own_answer_to_what_is_left(
    random_model: LatentDiffusion, make: Callable[[slice], LinearOperator], count: int
) -> None:
    A = make(slice(None))
    y = measured(A, count)
    method = methods.build("ldps", steps=3, finish={"by": "total_variation"})
    found = restore(random_model, A, y, method, sigma=SIGMA)
    assert found.latents is not None
    x = random_model.decode(found.latents)
    left = Problem.of(A, y - A(x), SIGMA, range(count))
    added = solve(None, methods.build("tv"), left, None).images
    torch.testing.assert_close(found.images, (x + added).clamp(-1, 1), rtol=0, atol=1e-9)


def test_by_total_variation_what_is_wrong_around_a_hole_is_mended_in_it() -> None:
    """Of an image that is too bright by 0.2 everywhere, the proximal map leaves the hole so."""
    mask = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    mask[..., 6:10, 6:10] = 0
    A = operators.build("inpainting", mask="given", masks=mask)
    x = torch.linspace(-0.5, 0.5, 16, dtype=torch.float64).expand(1, 3, 16, 16)
    problem = Problem.of(A, A(x), 0.01, [0])
    off = {}
    for by in ("proximal", "total_variation"):
        mended = Finish.model_validate({"by": by}).applied(problem, x + 0.2)
        off[by] = float(((mended - x) * (1 - mask)).abs().max())
    assert off["total_variation"] < 0.02 < 0.19 < off["proximal"]


def test_a_weight_that_is_not_read_is_doubted() -> None:
    finish: Any = {"by": "total_variation", "weight": 0.1}
    (doubt,) = methods.build("p2l", finish=finish).doubts()
    assert doubt == "finish.weight is 0.1, but by is total_variation, which takes its own from the noise"


def test_the_projection_by_the_rule_is_the_same_for_an_operator_of_another_scale(
    random_model: LatentDiffusion,
) -> None:
    """A x and 10 A x, with ten times the noise, are one task; a number as the weight makes them two."""
    A = operators.build("super_resolution", factor=4)

    def ten_times(x: torch.Tensor) -> torch.Tensor:
        return 10 * A(x)

    scaled = linear(ten_times, (3, 16, 16))
    y = measured(A, 1)
    found = {}
    for weight in ("discrepancy", 1.0):
        method = methods.build("p2l", steps=3, guidance=None, projection={"weight": weight, "every": 1},
                               prompt_tuning=None)  # fmt: skip
        one = restore(random_model, A, y, method, sigma=SIGMA).images
        other = restore(random_model, scaled, 10 * y, method, sigma=10 * SIGMA).images
        found[weight] = float((one - other).abs().max())
    assert found["discrepancy"] < 1e-4 < 1e-2 < found[1.0]


def test_runs_begun_without_the_setting_keep_their_fingerprints() -> None:
    assert "finish" not in methods.build("p2l").model_dump()
    assert methods.build("p2l", finish={"weight": 0.01}).model_dump()["finish"] == {"weight": 0.01}


@pytest.mark.parametrize("block", ["finish", "projection"])
@pytest.mark.parametrize("weight", [0, -1.0, "morozov", None])
def test_another_weight_is_refused(block: str, weight: object) -> None:
    settings: dict[str, Any] = {block: {"weight": weight}}
    with pytest.raises(
        ValueError, match=rf"{block}.weight: got {weight!r}; allowed: a number above 0, or disc"
    ):
        methods.build("p2l", **settings)
