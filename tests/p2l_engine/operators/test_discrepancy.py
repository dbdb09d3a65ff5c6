"""The weight whose proximal map leaves as much of a measurement as its noise is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import operators
from p2l_engine.operators import discrepancy
from p2l_engine.operators.base import LinearOperator
from p2l_engine.operators.discrepancy import discrepancy_weight
from tests.p2l_engine.operators.test_operators import BATCH, both_dtypes, every_operator, noise

SIZE = (16, 24)


def measured(A: LinearOperator, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """y with noise of deviation 0.1, and smooth images that are far from it."""
    x = torch.cumsum(noise(BATCH, 3, *SIZE), dim=3).clamp(-3, 3) / 3
    y = A(x) + A.observed(0.1 * noise(*A(x).shape, seed=1))
    return y.to(dtype), (0.5 * x + 0.3).to(dtype)


def left(A: LinearOperator, y: Tensor, u: Tensor) -> Tensor:
    """Root mean square of y - A u over what A measures."""
    return ((y - A(u)).flatten(1).square().sum(dim=1) / A.entries(y)).sqrt()


@every_operator
@both_dtypes
def test_what_is_left_is_what_was_asked_for(
    make: Callable[[tuple[int, int]], LinearOperator], dtype: torch.dtype
) -> None:
    A = make(SIZE).to("cpu", dtype)
    y, x = measured(A, dtype)
    half = 0.5 * float(left(A, y, x).min())
    weight = discrepancy_weight(A, y, x, half)
    assert weight.shape == (BATCH,) and weight.dtype == dtype
    torch.testing.assert_close(
        left(A, y, A.proximal(y, x, weight)), torch.full((BATCH,), half, dtype=dtype), rtol=0.01, atol=0
    )


def test_where_a_at_is_a_multiple_of_one_the_weight_is_the_closed_form() -> None:
    """A u - y shrinks by lambda / (lambda + 1 / f^2)."""
    A = operators.build("super_resolution", factor=4)
    y, x = measured(A)
    expected = 0.1 / 16 / (left(A, y, x) - 0.1)
    torch.testing.assert_close(discrepancy_weight(A, y, x, 0.1), expected, rtol=1e-9, atol=0)


def test_an_image_that_fits_already_is_kept() -> None:
    A = operators.build("gaussian_blur", size=9, sigma=1.5, padding="circular")
    y, x = measured(A)
    u = A.proximal(y, x, discrepancy_weight(A, y, x, 10.0))
    torch.testing.assert_close(u, x, rtol=0, atol=1e-5)
    exact = A.proximal(A(x), x, discrepancy_weight(A, A(x), x, 0.1))
    torch.testing.assert_close(exact, x, rtol=0, atol=1e-9)


def test_what_cannot_be_reached_is_sought_no_further_than_a_thousandth() -> None:
    A = operators.build("denoising")
    y, x = measured(A)
    weight = discrepancy_weight(A, y, x, 1e-9)
    torch.testing.assert_close(weight, torch.full((BATCH,), 1e-3, dtype=y.dtype), rtol=1e-6, atol=0)


def test_an_image_neither_stops_nor_changes_the_others() -> None:
    """Not those that are not finite, nor those of which nothing is measured."""
    masks = torch.ones(BATCH, 1, *SIZE)
    masks[0] = 0
    A = operators.build("inpainting", mask="given", masks=masks)
    y, x = measured(A)
    alone = discrepancy_weight(A.select([2]), y[2:], x[2:], 0.1)
    x[1, 0, 0, 0] = torch.nan
    weight = discrepancy_weight(A, y, x, 0.1)
    assert bool((weight.isfinite() & (weight > 0)).all())
    torch.testing.assert_close(weight[2:], alone, rtol=1e-12, atol=0)


@both_dtypes
@pytest.mark.parametrize(
    ("name", "settings", "most"),
    [
        ("denoising", {}, 1),
        ("super_resolution", {"factor": 4}, 1),
        ("inpainting", {"mask": "given", "masks": (noise(BATCH, 1, *SIZE, seed=2) > 0).double()}, 1),
        ("gaussian_blur", {"size": 9, "sigma": 1.5}, discrepancy.ITERATIONS),
    ],
)
def test_a_is_applied_no_more_often_than_a_at_has_eigenvalues(
    name: str, settings: dict[str, Any], most: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    A = operators.build(name, **settings).to("cpu", dtype)
    y, x = measured(A, dtype)
    x[1, 0, 0, 0] = torch.nan  # holds no other up
    calls, adjoint = [], type(A).adjoint

    def counted(self: LinearOperator, y: Tensor) -> Tensor:
        calls.append(y)
        return adjoint(self, y)

    monkeypatch.setattr(type(A), "adjoint", counted)
    discrepancy_weight(A, y, x, 0.1)
    assert len(calls) == most
