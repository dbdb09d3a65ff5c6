"""Operators from functions one writes: what is derived, what is checked, how they are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from p2l_engine import operators

SHAPE = (3, 6, 8)


def scramble(x: Tensor) -> Tensor:
    """A fixed full matrix on the pixels of each image: nothing about it is special."""
    pixels = SHAPE[0] * SHAPE[1] * SHAPE[2]
    matrix = torch.randn(20, pixels, generator=torch.Generator().manual_seed(0)).to(x) / pixels**0.5
    return x.flatten(1) @ matrix.T


def test_the_adjoint_and_proximal_are_those_of_the_functions_matrix() -> None:
    A = operators.linear(scramble, SHAPE)
    identity = torch.eye(144, dtype=torch.float64).view(144, *SHAPE)
    matrix = A(identity).T
    x, y = torch.randn(2, *SHAPE, dtype=torch.float64), torch.randn(2, 20, dtype=torch.float64)
    torch.testing.assert_close(A.adjoint(y).flatten(1), y @ matrix)
    right = y @ matrix + 0.3 * x.flatten(1)
    expected = torch.linalg.solve(matrix.T @ matrix + 0.3 * torch.eye(144, dtype=torch.float64), right.T).T
    torch.testing.assert_close(A.proximal(y, x, 0.3).flatten(1), expected, rtol=0, atol=1e-8)


def test_a_function_that_drops_everything_has_a_zero_adjoint() -> None:
    A = operators.linear(lambda x: 0 * x, SHAPE)
    assert not A.adjoint(torch.ones(1, *SHAPE)).any()


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda x: x + 1, r"A\(0\) reached 1"),
        (lambda x: x.clamp(-1, 1), "allowed: linear functions"),
        (torch.abs, "allowed: linear functions"),
        (lambda x: x * x.abs().amax(dim=(1, 2, 3), keepdim=True), "allowed: linear functions"),
        (lambda x: x - x.roll(1, dims=0), "allowed: "),
        (lambda x: x / x, "infinity or NaN"),
        (lambda x: x.sum(), r"made \(\) of a batch of 4"),
        (lambda x: x[0], r"made \(3, 6, 8\) of a batch of 4"),
        (lambda x: x.numpy(), "made ndarray"),
        (lambda x: x @ torch.ones(5, 5), r"failed \(RuntimeError: .*\) on 4 random images \(3, 6, 8\)"),
        (lambda x: x.detach(), "cannot be differentiated"),
        (lambda x: x + x.detach(), "not its adjoint"),
    ],
    ids=[
        "offset",
        "clamp",
        "abs",
        "square",
        "mixes images",
        "NaN",
        "no batch",
        "one image",
        "NumPy",
        "fails",
        "detached",
        "half",
    ],
)
def test_what_is_no_linear_function_of_images_is_refused(function: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        operators.linear(function, SHAPE)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cameras_for_test.py").write_text(
        "def flip(x):\n    return x.flip(-1)\n\ndef half(x):\n    return x[..., ::2]\n\ngain = 2\n"
    )
    (tmp_path / "broken_for_test.py").write_text("raise RuntimeError('half written')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "cameras_for_test"


def test_a_function_is_found_by_its_name(module: str) -> None:
    A = operators.build("linear", function=f"{module}:flip", image_shape=SHAPE)
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(A(x), x.flip(-1))


def test_a_function_maps_images_of_the_shape_given_beside_that_of_y(module: str) -> None:
    settings = operators.from_block({"name": "linear", "function": f"{module}:half"})
    measured = (*SHAPE[:2], SHAPE[2] // 2)
    A = settings.build(image_shape=SHAPE, measurement_shape=measured)
    assert A.measurement_shape(SHAPE) == measured


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("cameras_for_test.flip", "allowed: package.module:function"),
        ("cameras_for_test:", "allowed: package.module:function"),
        ("no_such_module_for_test:flip", "ModuleNotFoundError"),
        ("broken_for_test:flip", "RuntimeError: half written"),
        ("cameras_for_test:flop", "'flop' is not there"),
        ("cameras_for_test:gain", "'gain' is not callable"),
        (None, "got None"),
        (3, "got 3"),
    ],
    ids=str,
)
def test_a_name_that_leads_to_no_function_says_why(module: str, path: object, problem: str) -> None:
    found = operators.validate("linear", {"function": path})
    assert len(found) == 1
    assert found[0].startswith("function: got")
    assert problem in found[0]
