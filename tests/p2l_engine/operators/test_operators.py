"""What every operator promises, for each of them by name, in every size, padding and dtype."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from p2l_engine import operators
from p2l_engine.operators.base import LinearOperator

BATCH = 3
SIZES = [(16, 16), (16, 24), (15, 21)]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generators(count: int = BATCH) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def lopsided_kernels(padding: str) -> Callable[[tuple[int, int]], LinearOperator]:
    kernels = noise(BATCH, 1, 5, 7).abs()
    kernels /= kernels.sum(dim=(1, 2, 3), keepdim=True)
    return lambda size: operators.build("blur", padding=padding, kernels=kernels)


def by_name(name: str, **settings: Any) -> Callable[[tuple[int, int]], LinearOperator]:
    return lambda size: operators.build(name, generators=generators(), image_shape=(3, *size), **settings)


def brightness_differences(x: Tensor) -> Tensor:
    """Wide differences of grey values: another rank, no channels, blind to a constant picture."""
    grey = x.mean(dim=1)
    return 2 * grey[..., 2:] - grey[..., :-2] - grey[..., 1:-1]


OPERATORS: dict[str, Callable[[tuple[int, int]], LinearOperator]] = {
    "super_resolution": lambda size: operators.build("super_resolution", factor=4 if size[0] == 16 else 3),
    "inpainting random": by_name("inpainting", mask="random", fraction=0.7),
    "inpainting free_form": by_name("inpainting", mask="free_form", fraction="20-30%"),
    "inpainting box": by_name("inpainting", mask="box", fraction=0.4),
    "inpainting given": lambda size: operators.build(
        "inpainting", mask="given", masks=(noise(BATCH, 1, *size) > 0).float()
    ),
    "gaussian_blur reflect": by_name("gaussian_blur", size=9, sigma=1.5),
    "gaussian_blur circular": by_name("gaussian_blur", size=9, sigma=1.5, padding="circular"),
    "gaussian_blur reflect, largest": by_name("gaussian_blur", size=29, sigma=3.0),
    "motion_blur reflect": by_name("motion_blur", size=11),
    "motion_blur circular": by_name("motion_blur", size=11, padding="circular"),
    "blur reflect": lopsided_kernels("reflect"),
    "blur circular": lopsided_kernels("circular"),
    "denoising": by_name("denoising"),
    "linear": lambda size: operators.linear(brightness_differences, (3, *size)),
    "cropped blur": lambda size: operators.Cropped(
        lopsided_kernels("reflect")((size[0] - 3, size[1] - 5)), (3, 5)
    ),
    "cropped inpainting": lambda size: operators.Cropped(
        by_name("inpainting", mask="random")((size[0], size[1] - 2)), (0, 2)
    ),
}
CLOSED_FORMS = [
    name for name in OPERATORS if not name.startswith(("linear", "cropped")) and "reflect" not in name
]

every_operator = pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


@every_operator
@every_size
def test_adjoint_passes_the_dot_product_test_for_each_image(make: Callable, size: tuple[int, int]) -> None:
    A = make(size)
    x = noise(BATCH, 3, *size, seed=1)
    y = noise(*A(x).shape, seed=2)
    scale = x.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
    assert ((dot(A(x), y) - dot(x, A.adjoint(y))).abs() <= 1e-10 * scale).all()


@every_operator
@every_size
def test_adjoint_is_the_one_that_autodiff_gives(make: Callable, size: tuple[int, int]) -> None:
    A = make(size)
    y = noise(*A(noise(BATCH, 3, *size)).shape, seed=2)
    torch.testing.assert_close(A.adjoint(y), LinearOperator.adjoint(A, y), rtol=0, atol=1e-12)


@every_operator
@every_size
def test_shapes_are_told_both_ways(make: Callable, size: tuple[int, int]) -> None:
    A = make(size)
    y = A(noise(BATCH, 3, *size))
    assert A.measurement_shape((3, *size)) == y.shape[1:]
    assert A.image_shape(tuple(y.shape[1:])) == (3, *size)


@every_operator
@both_dtypes
def test_dtype_is_kept_throughout(make: Callable, dtype: torch.dtype) -> None:
    A = make((16, 24))
    x = noise(BATCH, 3, 16, 24).to(dtype)
    y = A.measure(x, 0.1, generators())
    results = [A(x), y, A.adjoint(y), A.proximal(y, x, 0.5), A.glue(y, x), A.backproject(y)]
    assert all(result.dtype == dtype and result.isfinite().all() for result in results)


@every_operator
@every_size
@pytest.mark.parametrize("lam", [0.1, 1.0])
def test_proximal_solves_its_normal_equations(make: Callable, size: tuple[int, int], lam: float) -> None:
    A = make(size)
    x = noise(BATCH, 3, *size)
    y = noise(*A(x).shape, seed=2)
    u = A.proximal(y, x, lam)
    slope = A.adjoint(A(u) - y) + lam * (u - x)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("lam", [0.01, 0.1, 1.0])
def test_closed_form_and_conjugate_gradients_agree(name: str, lam: float) -> None:
    A = OPERATORS[name]((15, 21))
    x = noise(BATCH, 3, 15, 21)
    y = noise(*A(x).shape, seed=2)
    torch.testing.assert_close(
        A.proximal(y, x, lam), LinearOperator.proximal(A, y, x, lam), rtol=0, atol=1e-6
    )


@every_operator
def test_proximal_takes_a_weight_for_each_image(make: Callable) -> None:
    A = make((16, 16))
    x = noise(BATCH, 3, 16, 16)
    y = noise(*A(x).shape, seed=2)
    together = A.proximal(y, x, torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64))
    for i, lam in enumerate([0.1, 1.0, 4.0]):
        alone = A.select([i]).proximal(y[i : i + 1], x[i : i + 1], lam)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("lam", [0.0, -1.0, float("nan"), torch.ones(2)], ids=str)
def test_proximal_refuses_a_weight_that_is_none(lam: float | Tensor) -> None:
    A, x = operators.build("denoising"), noise(BATCH, 3, 4, 4)
    with pytest.raises(ValueError, match="lam: got"):
        A.proximal(x, x, lam)


@every_operator
def test_an_image_does_not_depend_on_its_neighbours(make: Callable) -> None:
    A = make((16, 24))
    x = noise(BATCH, 3, 16, 24)
    y = A.measure(x, 0.1, generators())
    order = [2, 0]
    B = A.select(order)
    torch.testing.assert_close(B(x[order]), A(x)[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(B.adjoint(y[order]), A.adjoint(y)[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        B.proximal(y[order], x[order], 0.3), A.proximal(y, x, 0.3)[order], rtol=0, atol=1e-12
    )
    again = B.measure(x[order], 0.1, [generators()[i] for i in order])
    torch.testing.assert_close(again, y[order], rtol=0, atol=1e-12)


@every_operator
def test_a_broken_image_leaves_its_neighbours_alone(make: Callable) -> None:
    A = make((16, 16))
    x = noise(BATCH, 3, 16, 16)
    y = A(x)
    broken = x.clone()
    broken[1] = torch.nan
    sound = [0, 2]
    torch.testing.assert_close(A(broken)[sound], y[sound], rtol=0, atol=0)
    torch.testing.assert_close(
        A.proximal(y, broken, 0.5)[sound], A.proximal(y, x, 0.5)[sound], rtol=0, atol=0
    )
    assert A.proximal(y, broken, 0.5)[1].isnan().any()


@every_operator
def test_measuring_is_differentiable_and_its_gradient_is_the_adjoint(make: Callable) -> None:
    A = make((16, 16))
    x = noise(BATCH, 3, 16, 16).requires_grad_()
    y = noise(*A(x).shape, seed=2)
    (0.5 * (A(x) - y).square().sum()).backward()
    torch.testing.assert_close(x.grad, A.adjoint(A(x.detach()) - y), rtol=0, atol=1e-10)


@every_operator
def test_gluing_is_differentiable(make: Callable) -> None:
    A = make((16, 16))
    x = noise(BATCH, 3, 16, 16).requires_grad_()
    y = noise(*A(x).shape, seed=2)
    towards = noise(BATCH, 3, 16, 16, seed=3)
    (gradient,) = torch.autograd.grad((A.glue(y, x) * towards).sum(), x)
    ahead, back = A.glue(y, x.detach() + towards), A.glue(y, x.detach() - towards)
    expected = ((ahead - back) * towards).sum() / 2
    torch.testing.assert_close((gradient * towards).sum(), expected)


@every_operator
def test_no_graph_is_recorded_that_nobody_asked_for(make: Callable) -> None:
    A = make((16, 16))
    x = noise(BATCH, 3, 16, 16)
    y = A(x)
    with torch.enable_grad():
        assert not A.adjoint(y).requires_grad
        assert not A.proximal(y, x.clone().requires_grad_(), 1.0).requires_grad
    with torch.no_grad():
        torch.testing.assert_close(A.adjoint(y), A.adjoint(y.clone().requires_grad_()).detach())


@every_operator
def test_what_was_used_in_inference_mode_can_be_differentiated_afterwards(make: Callable) -> None:
    A = make((16, 16))
    x = noise(BATCH, 3, 16, 16)
    with torch.inference_mode():
        back = A.adjoint(A(x))
    torch.testing.assert_close(back.clone(), A.adjoint(A(x)))
    assert torch.autograd.grad(A(x.requires_grad_()).sum(), x)[0].isfinite().all()


def test_a_proximal_that_is_not_reached_is_warned_of() -> None:
    decades = torch.logspace(-8, 0, 48, dtype=torch.float64).view(3, 4, 4)
    A = operators.linear(lambda x: x * decades.to(x), (3, 4, 4))
    x = noise(2, 3, 4, 4)
    with pytest.warns(
        UserWarning, match="conjugate gradients stopped at a relative residual of .* 2 of 2 images"
    ):
        A.proximal(x, x, 1e-18)


@every_operator
def test_noise_is_each_generators_own_and_of_the_stated_strength(make: Callable) -> None:
    A = make((16, 16))
    x = noise(BATCH, 3, 16, 16)
    clean, faint, strong = (A.measure(x, sigma, generators()) for sigma in (0.0, 0.1, 0.2))
    torch.testing.assert_close(clean, A(x))
    torch.testing.assert_close(strong - clean, 2 * (faint - clean))
    unit = (faint - clean) / 0.1
    assert 0.5 < unit[unit != 0].std() < 1.5


def test_noise_is_the_generators_normal_numbers_times_sigma() -> None:
    x = noise(BATCH, 3, 8, 8)
    drawn = torch.stack([torch.randn(3, 8, 8, generator=source) for source in generators()])
    y = operators.build("denoising").measure(x, 0.3, generators())
    torch.testing.assert_close(y - x, 0.3 * drawn.double())


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_noise_of_no_strength_is_refused(sigma: Any) -> None:
    with pytest.raises(ValueError, match="sigma: got"):
        operators.build("denoising").measure(noise(1, 3, 4, 4), sigma, generators(1))


def test_a_gaussian_blur_brings_its_matrices_to_a_device_once() -> None:
    class Copies(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.made += func is torch.ops.aten._to_copy.default
            return func(*args, **(kwargs or {}))

    A, x = operators.build("gaussian_blur", size=9, sigma=1.5), torch.zeros(1, 3, 20, 24)
    for _ in range(2):
        with Copies() as copies:
            A.proximal(A(x), x, 0.1)
    assert copies.made == 0


def test_one_generator_an_image_is_asked_for() -> None:
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        operators.build("denoising").measure(noise(2, 3, 4, 4), 0.1, generators(1))
    with pytest.raises(ValueError, match="generators: got NoneType for 2 images"):
        operators.build("denoising").measure(noise(2, 3, 4, 4), 0.1, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", [name for name in OPERATORS if name.startswith(("super", "inpainting", "denoising"))]
)
def test_gluing_meets_the_measurement_exactly_where_a_pseudo_inverse_is_known(name: str) -> None:
    A = OPERATORS[name]((16, 16))
    x = noise(BATCH, 3, 16, 16)
    y = A(noise(BATCH, 3, 16, 16, seed=5))
    torch.testing.assert_close(A(A.glue(y, x)), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["blur reflect", "blur circular", "gaussian_blur reflect", "linear"])
def test_gluing_is_as_printed_elsewhere(name: str) -> None:
    A = OPERATORS[name]((16, 16))
    x = noise(BATCH, 3, 16, 16)
    y = noise(*A(x).shape, seed=5)
    torch.testing.assert_close(A.glue(y, x), A.adjoint(y) + x - A.adjoint(A(x)))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in OPERATORS
        if name.split()[0] in ("super_resolution", "gaussian_blur", "motion_blur", "blur", "denoising")
    ],
)
def test_backprojecting_a_flat_measurement_gives_the_flat_picture(name: str) -> None:
    A = OPERATORS[name]((15, 21))
    flat = torch.full((BATCH, 3, 15, 21), 0.3, dtype=torch.float64)
    torch.testing.assert_close(A.backproject(A(flat)), flat)


def test_backprojecting_puts_zero_where_nothing_was_measured() -> None:
    A = OPERATORS["inpainting given"]((16, 16))
    x = noise(BATCH, 3, 16, 16)
    torch.testing.assert_close(A.backproject(A(x)), A(x), rtol=0, atol=0)
    blind = OPERATORS["linear"]((16, 16))
    assert not blind.backproject(torch.ones(BATCH, 16, 14, dtype=torch.float64)).any()


def test_backprojecting_a_small_picture_enlarges_it() -> None:
    A = operators.build("super_resolution", factor=2)
    y = noise(1, 3, 2, 2)
    enlarged = A.backproject(y)
    assert enlarged.shape == (1, 3, 4, 4)
    assert (enlarged[..., :2, :2] == y[..., :1, :1]).all()
    torch.testing.assert_close(enlarged, LinearOperator.backproject(A, y))


@every_operator
def test_operators_move_and_travel(make: Callable) -> None:
    A = make((16, 16))
    x = noise(BATCH, 3, 16, 16, dtype=torch.float32)
    for dtype in (torch.float32, torch.float64):
        moved = A.to("cpu", dtype)
        kernel = getattr(getattr(moved, "operator", moved), "kernel", None)
        assert kernel is None or kernel.dtype == dtype
        torch.testing.assert_close(moved(x), A(x))
    torch.testing.assert_close(pickle.loads(pickle.dumps(A))(x), A(x))


@every_operator
def test_images_of_another_shape_are_refused(make: Callable) -> None:
    A = make((16, 16))
    with pytest.raises(ValueError, match="got .*; allowed: "):
        A(noise(3, 16, 16))
    with pytest.raises(ValueError, match="got .*; allowed: "):
        A.image_shape((16,))


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "denoising"])
def test_images_of_a_size_that_the_operator_cannot_take_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="got .*; allowed: "):
        OPERATORS[name]((16, 16)).measurement_shape((3, 2, 17))


@pytest.mark.parametrize("name", ["inpainting given", "blur reflect", "motion_blur circular"])
def test_a_batch_of_another_size_than_its_masks_or_kernels_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="got 2 images for 3 "):
        OPERATORS[name]((16, 16))(noise(2, 3, 16, 16))


def test_what_one_mask_or_kernel_serves_is_any_batch() -> None:
    A = operators.build("inpainting", mask="given", masks=torch.ones(1, 1, 4, 4))
    assert A.select([3, 1]) is A
    assert A(noise(5, 3, 4, 4)).shape == (5, 3, 4, 4)


def test_a_canvas_keeps_its_border() -> None:
    inner = operators.build("super_resolution", factor=4)
    A = operators.Cropped(inner, (4, 2))
    x, y = noise(2, 3, 20, 18), noise(2, 3, 4, 4, seed=1)
    for changed, inside in [
        (A.proximal(y, x, 0.2), inner.proximal(y, x[..., :16, :16], 0.2)),
        (A.glue(y, x), inner.glue(y, x[..., :16, :16])),
    ]:
        torch.testing.assert_close(changed[..., :16, :16], inside)
        assert (changed[..., 16:, :] == x[..., 16:, :]).all()
        assert (changed[..., :, 16:] == x[..., :, 16:]).all()
    brought_back = A.backproject(y)
    assert (brought_back[..., 16:, :16] == brought_back[..., 15:16, :16]).all()
    assert (brought_back[..., 16:] == brought_back[..., 15:16]).all()
    with pytest.raises(ValueError, match="got a canvas of height 4"):
        A.measurement_shape((3, 4, 18))
    with pytest.raises(ValueError, match=r"padding: got \(-1, 0\)"):
        operators.Cropped(inner, (-1, 0))
