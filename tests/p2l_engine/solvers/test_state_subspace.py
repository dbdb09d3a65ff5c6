"""DiffStateGrad: a gradient on the low-rank subspace of the latent, against projections made by hand."""

import pytest
import torch
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.schedule import Step
from p2l_engine.solvers.parts.state_subspace import StateSubspace, onto_state_subspace

AT = Step(4)


def channel_of(values: tuple[float, float, float]) -> Tensor:
    """A 3x3 channel with these singular values, of known vectors."""
    source = torch.Generator().manual_seed(1)
    left, right = torch.linalg.qr(torch.randn(2, 3, 3, dtype=torch.float64, generator=source))[0]
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


def test_each_channel_keeps_as_many_directions_as_hold_its_share() -> None:
    """Squares 16, 9, 0.01 of one channel: 0.63 of the first alone, 0.9996 of two. The other has rank one."""
    z = torch.stack([channel_of((4.0, 3.0, 0.1)), channel_of((5.0, 0.1, 0.1))])[None]
    gradient = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    found = onto_state_subspace(gradient, z, AT, StateSubspace(variance=0.99))
    for channel, rank in enumerate((2, 1)):
        left = torch.linalg.eigh(z[0, channel] @ z[0, channel].T)[1][:, -rank:]
        right = torch.linalg.eigh(z[0, channel].T @ z[0, channel])[1][:, -rank:]
        expected = left @ left.T @ gradient[0, channel] @ right @ right.T
        torch.testing.assert_close(found[0, channel], expected, rtol=0, atol=1e-10)


def test_all_of_the_variance_is_no_projection() -> None:
    z, gradient = torch.randn(2, 2, 4, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(onto_state_subspace(gradient, z, AT, StateSubspace(variance=1.0)), gradient)
    assert not torch.allclose(
        onto_state_subspace(gradient, z, AT, StateSubspace(variance=0.9)), gradient, atol=0.1
    )


def test_it_is_made_at_every_nth_step_only() -> None:
    z, gradient = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    setting = StateSubspace(variance=0.5, every=3)
    made = [
        n
        for n in range(1, 8)
        if not torch.equal(onto_state_subspace(gradient, z, Step(n), setting), gradient)
    ]
    assert made == [3, 6]
    assert onto_state_subspace(gradient, z, AT, None) is gradient


def test_a_restoration_takes_the_projected_gradient(random_model: LatentDiffusion) -> None:
    """After a step of LDPS the latent differs from the unguided one by what lies in the subspace of z_T."""
    A, y = operators.build("denoising"), torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1
    z = torch.randn(2, 4, 4, 4, dtype=torch.float64)

    def latents(guidance: dict[str, object]) -> Tensor:
        method = methods.build("ldps", steps=1, guidance=guidance)
        out = restore(random_model, A, y, method, initial_latents=z).latents
        assert out is not None
        return out

    unguided, plain = latents({"step_size": 0.0}), latents({})
    subspace = latents({"state_subspace": {"variance": 0.8}})
    expected = onto_state_subspace(plain - unguided, z, Step(1), StateSubspace(variance=0.8))
    torch.testing.assert_close(subspace - unguided, expected, rtol=0, atol=1e-9)
    assert float((subspace - plain).abs().max()) > 1e-3


def test_an_image_that_is_not_a_number_stops_alone(random_model: LatentDiffusion) -> None:
    A, y = operators.build("denoising"), torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    z = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    z[0, 0, 0, 0] = torch.nan
    method = methods.build("ldps", steps=2, guidance={"state_subspace": {}})
    assert [error is None for error in restore(random_model, A, y, method, initial_latents=z).errors] == [
        False,
        True,
    ]


def test_a_run_begun_without_it_keeps_its_fingerprint() -> None:
    plain = methods.build("p2l").model_dump()["guidance"]
    assert plain == {
        "rule": "gd",
        "step_size": 1.0,
        "step_schedule": "constant",
        "residual": "norm",
        "fixed_point": None,
    }
    chosen = methods.build("p2l", guidance={"state_subspace": {"every": 5}}).model_dump()["guidance"]
    assert chosen["state_subspace"] == {"variance": 0.99, "every": 5}
    with pytest.raises(ValueError, match=r"guidance.state_subspace.variance: got 1.5"):
        methods.build("p2l", guidance={"state_subspace": {"variance": 1.5}})
