"""The weight of the proximal map by the discrepancy principle (Morozov, 1966): what is left is the noise.

| symbol | code | meaning |
|---|---|---|
| mu | mu | 1 / lambda |
| r | residual | y - A x |
| r(mu) | | y - A u = (I + mu A A^T)^-1 r, u the proximal map of x: shorter, the larger mu |
| T | tridiagonal | A A^T on the Krylov space of r, from Lanczos' iteration |
| theta, w | theta, share | eigenvalues of T, squares of their vectors' first entries |

abs(r(mu))^2 = abs(r)^2 sum_i w_i / (1 + mu theta_i)^2 is Gauss' quadrature, from below (Golub and Meurant,
2010), for every mu at once. It is exact after one iteration where A A^T is a multiple of I.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.operators.base import LinearOperator

# lambda of a proximal map as a setting: a number, or this rule.
Weight = Literal["discrepancy"] | Annotated[float, Field(gt=0)]

ITERATIONS = 30  # of Lanczos, at most
FULL = 1e-5  # of T_11: above what rounding leaves of a new direction where a Krylov space is full
LEAST, MOST = 1e-6, 1e3  # of mu, in units of 1 / T_11
HALVINGS = 50  # of an interval of 20 nats


@torch.no_grad()
def discrepancy_weight(A: LinearOperator, y: Tensor, x: Tensor, rms: float) -> Tensor:
    """lambda (B,) > 0 such that of u = `A.proximal(y, x, lambda)` y - A u has the root mean square `rms` > 0.

    The mean is over what A measures (`A.entries`). An image x (3, H, W) that is as near already gets a weight
    that keeps it, to a millionth of its residual. Where none leaves so little, it is the weight at which the
    residual has gone down to a thousandth where A is strong, and u stays near x where it is weak.
    """
    residual = y - A(x)
    goal = rms**2 * A.entries(y).clamp_min(1).double() / residual.double().flatten(1).square().sum(dim=1)
    # An image that is not finite must not stop the others.
    tridiagonal = torch.nan_to_num(_lanczos(A, residual), posinf=0, neginf=0)
    first = tridiagonal[:, 0, 0]
    unit = torch.where(first > 0, first, 1)
    theta, vectors = torch.linalg.eigh(tridiagonal)
    share = vectors[:, 0].square()
    low, high = torch.log(LEAST / unit), torch.log(MOST / unit)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        left = (share / (1 + middle.exp()[:, None] * theta.clamp_min(0)).square()).sum(dim=1)
        low, high = torch.where(left > goal, middle, low), torch.where(left > goal, high, middle)
    return (-(low + high) / 2).exp().to(y)


def _lanczos(A: LinearOperator, residual: Tensor) -> Tensor:
    """T (B, n, n) in float64 of A A^T from each residual (B, *measurement).

    n: ITERATIONS, or less where the Krylov spaces of all are full: at 1 where A A^T is a multiple of I. What
    follows of those that are full before others hangs together with them by rounding errors only.
    """
    least = torch.finfo(residual.dtype).tiny

    def beside_images(values: Tensor) -> Tensor:
        return values.to(residual).view(-1, *(1 for _ in residual.shape[1:]))

    def length(values: Tensor) -> Tensor:  # in float64, as all sums: those of float32 would hide a full space
        return torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64)

    before, v = torch.zeros_like(residual), residual / beside_images(length(residual).clamp_min(least))
    alphas, betas = list[Tensor](), list[Tensor]()
    for _ in range(ITERATIONS):
        w = A(A.adjoint(v))
        if betas:
            w = w - beside_images(betas[-1]) * before
        alphas.append((w * v).flatten(1).sum(dim=1, dtype=torch.float64))
        w = w - beside_images(alphas[-1]) * v
        betas.append(length(w))
        before, v = v, w / beside_images(betas[-1].clamp_min(least))
        active = betas[-1] > FULL * alphas[0]  # False for NaN
        if not active.is_meta and not active.any():  # without data there is no knowing
            break
    beside = torch.diag_embed(torch.stack(betas, dim=1)[:, :-1], offset=1)
    return torch.diag_embed(torch.stack(alphas, dim=1)) + beside + beside.mT
