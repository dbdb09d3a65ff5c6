"""Solvers that draw as they go: each image's numbers are its own; several samples give mean and deviation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from p2l_engine import methods, operators, restore
from p2l_engine.priors.latent import LatentDiffusion
from p2l_engine.schedule import Step
from p2l_engine.solvers import Problem, Solver
from p2l_engine.solvers.parts.shrinkage import shrunk


@dataclass(frozen=True)
class Walk:
    x: Tensor


class RandomWalk(Solver):
    """Adds noise at each step; an image whose mean passes a bound diverges, and leaves the batch."""

    prior: ClassVar[None] = None
    name: Literal["walk"] = "walk"

    def schedule(self, prior: Any) -> Sequence[Step]:
        return [Step(number) for number in (3, 2, 1)]

    def start(self, prior: Any, problem: Problem) -> Walk:
        return Walk(problem.A.backproject(problem.y))

    def step(self, prior: Any, problem: Problem, state: Walk, at: Step) -> Walk:
        x = state.x + 0.01 * problem.noise(state.x)
        diverges = (problem.y.flatten(1).mean(dim=1) > 0.5) & (at.number == 2)
        return Walk(torch.where(diverges.view(-1, 1, 1, 1), torch.inf, x))

    def images(self, prior: Any, problem: Problem, state: Walk) -> Tensor:
        return state.x


def test_numbers_drawn_at_every_step_are_the_images_own() -> None:
    """In any order, alone, and after a neighbour left the batch half-way."""
    A, seeds = operators.build("denoising"), [3, 1, 4]
    y = torch.zeros(3, 3, 8, 8)
    y[1] = 0.9  # diverges at step 2
    together = restore(None, A, y, RandomWalk(), seeds=seeds)
    assert together.errors[1] is not None and "step 2 of 3" in together.errors[1]
    for order in ([0], [2], [2, 0]):
        some = restore(None, A, y[order], RandomWalk(), seeds=[seeds[i] for i in order])
        assert torch.equal(some.images, together.images[order])
    assert not torch.equal(together.images[0], together.images[2])


def test_samples_are_restorations_from_seeds_of_their_own(random_model: LatentDiffusion) -> None:
    A = operators.build("super_resolution", factor=4)
    y = torch.rand(2, 3, 4, 4, dtype=torch.float64) * 2 - 1
    one = restore(random_model, A, y, methods.build("ldps", steps=3), seeds=[5, 6])
    two = restore(random_model, A, y, methods.build("ldps", steps=3, samples=2), seeds=[5, 6])
    other = 2 * two.images - one.images  # the mean is that of the first and of another
    assert two.deviation is not None and one.deviation is None
    assert torch.allclose(two.deviation, (one.images - other).abs() / 2**0.5, atol=1e-6)
    assert (two.nfe, one.nfe) == (6, 3) and float(two.deviation.mean()) > 1e-3
    alone = restore(random_model, A, y[1:], methods.build("ldps", steps=3, samples=2), seeds=[6])
    assert torch.allclose(alone.images, two.images[1:], atol=1e-9)


def test_the_mean_is_drawn_toward_total_variation_as_far_as_samples_disagree(
    random_model: LatentDiffusion,
) -> None:
    A = operators.build("super_resolution", factor=4)
    y = torch.rand(2, 3, 4, 4, dtype=torch.float64) * 2 - 1
    mean, drawn = (
        restore(random_model, A, y, methods.build("ldps", steps=3, samples=3, toward=toward), sigma=0.1)
        for toward in (None, "total_variation")
    )
    tv = restore(None, A, y, "tv", sigma=0.1).images
    assert mean.deviation is not None and drawn.deviation is not None
    assert torch.equal(mean.deviation, drawn.deviation) and mean.nfe == drawn.nfe
    s, d = mean.deviation.square().mean(dim=1), (mean.images - tv).square().mean(dim=1)
    share = (d / (d + s))[:, None]
    assert torch.allclose(drawn.images, share * mean.images + (1 - share) * tv, atol=1e-9)
    assert torch.allclose(drawn.residual, (y - A(drawn.images)).square().mean(dim=(1, 2, 3)).sqrt())
    assert float(share.min()) < 0.3 and float(share.max()) > 0.7


def test_where_samples_agree_their_mean_stands_and_where_they_do_not_it_gives_way() -> None:
    x = torch.zeros(1, 3, 2, 2)
    samples = torch.ones(2, 1, 3, 2, 2)
    samples[0, ..., 0, 0], samples[1, ..., 0, 0] = 11.0, -9.0  # the same mean
    samples[..., 1, 1] = 0.0
    result = shrunk(samples, x)
    assert result[0, :, 0, 1].eq(1).all() and result[0, :, 1, 1].eq(0).all()
    assert torch.allclose(result[0, :, 0, 0], torch.full((3,), 1 / 201))


def test_a_sample_that_failed_is_not_filled_in(random_model: LatentDiffusion) -> None:
    samples = torch.ones(2, 2, 3, 2, 2)
    samples[0, 1] = torch.nan
    result = shrunk(samples, torch.zeros(2, 3, 2, 2))
    assert result[0].isfinite().all() and result[1].isnan().all()


def test_one_sample_is_drawn_toward_nothing_and_it_is_said(random_model: LatentDiffusion) -> None:
    A, y = operators.build("denoising"), torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    plain, drawn = (methods.build("ldps", steps=2, toward=toward) for toward in (None, "total_variation"))
    assert "toward is 'total_variation', but one sample is drawn, and no mean made" in drawn.doubts()
    assert plain.doubts() == [] == methods.build("p2l", preset="tiny_psnr", operator="denoising").doubts()
    images = [restore(random_model, A, y, solver).images for solver in (plain, drawn)]
    assert torch.equal(*images)


def test_progress_goes_through_all_samples(random_model: LatentDiffusion) -> None:
    seen: list[tuple[int, int]] = []
    restore(
        random_model,
        operators.build("denoising"),
        torch.zeros(1, 3, 16, 16, dtype=torch.float64),
        methods.build("ldps", steps=2, samples=2),
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_sample_is_no_other_run_than_before_there_were_several() -> None:
    """The fingerprint is made of this."""
    assert not {"samples", "toward"} & methods.build("p2l").model_dump().keys()
    assert methods.build("p2l", samples=4).model_dump()["samples"] == 4
    with pytest.raises(ValueError, match="samples: got 0"):
        methods.build("p2l", samples=0)


def test_samples_from_one_given_latent_would_be_one_and_are_refused(random_model: LatentDiffusion) -> None:
    y, z = torch.zeros(1, 3, 16, 16, dtype=torch.float64), torch.zeros(1, 4, 4, 4)
    with pytest.raises(ValueError, match="initial_latents: got one an image for 2 samples"):
        restore(
            random_model, operators.build("denoising"), y, methods.build("ldps", samples=2), initial_latents=z
        )
