"""Conjugate gradients on a batch: the solution, the stated tolerance, and the images' independence."""

from functools import partial

import pytest
import torch
from torch import Tensor

from p2l_engine.operators.conjugate_gradients import TOLERANCE, conjugate_gradients

SIZE = 12


def system(count: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Symmetric positive definite matrices of very different condition, and right-hand sides of any scale."""
    source = torch.Generator().manual_seed(0)
    bases = torch.linalg.qr(torch.randn(count, SIZE, SIZE, generator=source, dtype=torch.float64)).Q
    spectra = torch.stack([torch.logspace(0, i, SIZE, dtype=torch.float64) for i in range(count)])
    scales = torch.logspace(-6, 6, count, dtype=torch.float64)[:, None]
    b = torch.randn(count, SIZE, generator=source, dtype=torch.float64) * scales
    return ((bases * spectra[:, None]) @ bases.mT).to(dtype), b.to(dtype)


def applied(matrices: Tensor, u: Tensor) -> Tensor:
    return (matrices @ u[..., None])[..., 0]


@pytest.mark.parametrize(("dtype", "stated"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_each_image_is_solved_to_the_stated_tolerance(dtype: torch.dtype, stated: float) -> None:
    assert TOLERANCE[dtype] == stated
    matrices, b = system(3, dtype)
    solution = conjugate_gradients(lambda u: applied(matrices, u), b, torch.zeros_like(b))
    assert solution.converged.all()
    assert (((b - applied(matrices, solution.values)).norm(dim=1) / b.norm(dim=1)) <= 5 * stated).all()


def test_solutions_are_those_of_a_direct_solver() -> None:
    matrices, b = system()
    solution = conjugate_gradients(lambda u: applied(matrices, u), b, torch.zeros_like(b))
    expected = torch.linalg.solve(matrices, b)
    assert ((solution.values - expected).norm(dim=1) <= 1e-6 * expected.norm(dim=1)).all()


def test_an_image_is_solved_alike_alone_and_among_others() -> None:
    matrices, b = system()
    together = conjugate_gradients(lambda u: applied(matrices, u), b, torch.zeros_like(b))
    assert len(set(together.iterations.tolist())) > 1
    for i in range(len(b)):
        matrix, right = matrices[i : i + 1], b[i : i + 1]
        alone = conjugate_gradients(partial(applied, matrix), right, torch.zeros_like(right))
        assert alone.iterations[0] == together.iterations[i]
        torch.testing.assert_close(alone.values[0], together.values[i], rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_looser_tolerance_takes_fewer_iterations(dtype: torch.dtype) -> None:
    matrices, b = system(3, dtype)
    loose = conjugate_gradients(lambda u: applied(matrices, u), b, torch.zeros_like(b), tolerance=1e-2)
    exact = conjugate_gradients(lambda u: applied(matrices, u), b, torch.zeros_like(b))
    assert loose.converged.all()
    assert exact.converged.all()
    assert (loose.iterations <= exact.iterations).all()
    assert loose.iterations.sum() < exact.iterations.sum()


def test_the_solution_as_a_start_takes_no_iteration_and_zero_is_solved_by_zero() -> None:
    matrices, b = system()
    solved = conjugate_gradients(lambda u: applied(matrices, u), b, torch.linalg.solve(matrices, b))
    assert not solved.iterations.any()
    nothing = conjugate_gradients(lambda u: applied(matrices, u), torch.zeros_like(b), torch.zeros_like(b))
    assert nothing.converged.all()
    assert not nothing.values.any()


def test_the_maximum_number_of_iterations_is_kept_and_told() -> None:
    matrices, b = system()
    solution = conjugate_gradients(lambda u: applied(matrices, u), b, torch.zeros_like(b), max_iterations=3)
    assert solution.iterations.max() == 3
    assert not solution.converged[-1]
    assert solution.residual[-1] > TOLERANCE[torch.float64]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_broken_image_is_not_a_number_and_its_neighbours_are_solved(bad: float) -> None:
    matrices, b = system()
    broken = b.clone()
    broken[1, 0] = bad
    solution = conjugate_gradients(lambda u: applied(matrices, u), broken, torch.zeros_like(b))
    assert solution.values[1].isnan().all()
    assert solution.converged.tolist() == [True, False, True, True]
    sound = conjugate_gradients(lambda u: applied(matrices, u), b, torch.zeros_like(b))
    torch.testing.assert_close(solution.values[[0, 2, 3]], sound.values[[0, 2, 3]], rtol=0, atol=0)
