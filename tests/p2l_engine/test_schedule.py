"""The schedule, beside that of diffusers."""

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import Tensor

from p2l_engine.priors.published import PUBLISHED
from p2l_engine.schedule import (
    FORWARD_PROCESS_SCHEDULERS,
    ForwardProcess,
    Schedule,
    ddim_step,
    make_schedule,
    posterior_mean,
    read_forward_process,
)

SD14 = PUBLISHED["CompVis/stable-diffusion-v1-4"]["scheduler"]


def sd14_schedule(steps: int, **changes: Any) -> tuple[ForwardProcess, Schedule]:
    process = read_forward_process({**SD14, **changes})
    return process, make_schedule(process, steps)


@pytest.mark.parametrize(
    ("steps", "first", "last"), [(1000, 999, 0), (200, 996, 1), (50, 981, 1), (3, 667, 1), (1, 1, 1)]
)
def test_leading_spacing_stays_inside_the_table(steps: int, first: int, last: int) -> None:
    process, schedule = sd14_schedule(steps)
    assert schedule.timesteps.dtype == torch.int64
    assert len(schedule.timesteps) == steps
    assert (schedule.timesteps[0], schedule.timesteps[-1]) == (first, last)
    assert (schedule.timesteps.diff() < 0).all()
    assert schedule.alpha_bar[0] == process.alphas_cumprod[first]
    assert schedule.alpha_bar[-1] == process.alphas_cumprod[last]


@pytest.mark.parametrize("steps", [1000, 200, 50, 3])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("to_one", [True, False])
def test_each_step_starts_where_the_one_before_ended_and_the_last_ends_at_the_final_alpha(
    steps: int, spacing: str, to_one: bool
) -> None:
    process, schedule = sd14_schedule(steps, timestep_spacing=spacing, set_alpha_to_one=to_one)
    assert torch.equal(schedule.alpha_bar_prev[:-1], schedule.alpha_bar[1:])
    assert schedule.alpha_bar_prev[-1] == (1.0 if to_one else process.alphas_cumprod[0])
    assert (schedule.alpha_bar_prev >= schedule.alpha_bar).all()
    assert schedule.alpha_bar.dtype == schedule.alpha_bar_prev.dtype == torch.float64


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [3, 20, 50, 200])
def test_timesteps_are_those_of_diffusers(steps: int, spacing: str) -> None:
    _, schedule = sd14_schedule(steps, timestep_spacing=spacing)
    theirs = DDIMScheduler(num_train_timesteps=1000, steps_offset=1, timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    assert schedule.timesteps.tolist() == theirs.timesteps.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers with NumPy 2
@pytest.mark.parametrize("name", FORWARD_PROCESS_SCHEDULERS)
def test_a_spacing_that_is_not_said_is_that_of_the_class_in_diffusers(name: str) -> None:
    """The noisiest timestep tells of it; that of LCMScheduler follows its own grid."""
    config = {key: value for key, value in SD14.items() if key != "steps_offset"} | {"_class_name": name}
    ours = make_schedule(read_forward_process(config), 20).timesteps
    theirs = getattr(diffusers, name).from_config(config)
    theirs.set_timesteps(20)
    assert ours[0] == (950 if name == "LCMScheduler" else round(float(theirs.timesteps[0])))
    if name in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler"):
        assert ours.tolist() == theirs.timesteps.double().round().tolist()  # they have fractions between


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3]},
        {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
    ],
)
def test_alphas_are_those_of_diffusers(changes: dict[str, Any]) -> None:
    config = {**SD14, **changes}
    scheduler = {"PNDMScheduler": PNDMScheduler, "DDIMScheduler": DDIMScheduler}[config["_class_name"]]
    theirs = scheduler.from_config(config)
    ours = read_forward_process(config)
    assert ours.alphas_cumprod.dtype == torch.float64
    torch.testing.assert_close(ours.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=2e-4, atol=1e-7)
    assert (ours.alphas_cumprod > 0).all()


def test_trajectory_is_that_of_diffusers_ddim_at_50_steps() -> None:
    _, schedule = sd14_schedule(50)
    theirs = DDIMScheduler.from_config({**SD14, "_class_name": "DDIMScheduler", "clip_sample": False})
    theirs.set_timesteps(50)
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def predict(z: Tensor, t: int) -> Tensor:
        return torch.tanh(z) * (0.5 + t / 2000)

    mine = z = start
    for t, alpha_bar, alpha_bar_prev in zip(
        schedule.timesteps.tolist(), schedule.alpha_bar, schedule.alpha_bar_prev, strict=True
    ):
        eps = predict(mine, t)
        mine = ddim_step(posterior_mean(mine, eps, alpha_bar), eps, alpha_bar_prev)
    for t in theirs.timesteps.tolist():
        z = theirs.step(predict(z, t), t, z, eta=0.0).prev_sample
    torch.testing.assert_close(mine, z, rtol=1e-4, atol=1e-5)


def test_posterior_mean_undoes_the_forward_process() -> None:
    z0, eps = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z_t = ddim_step(z0, eps, 0.3)
    torch.testing.assert_close(posterior_mean(z_t, eps, 0.3), z0)


def test_float32_latents_stay_float32() -> None:
    _, schedule = sd14_schedule(50)
    z = torch.ones(1, 4, 2, 2)
    z0 = posterior_mean(z, z, schedule.alpha_bar[0])
    assert z0.dtype == ddim_step(z0, z, schedule.alpha_bar_prev[0]).dtype == torch.float32


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.0, True, "50"])
def test_impossible_step_counts_are_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="integer from 1 to 1000"):
        sd14_schedule(steps)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_share_of_the_timesteps_is_spaced_as_those_of_a_model_that_has_no_others(spacing: str) -> None:
    process = read_forward_process({**SD14, "timestep_spacing": spacing})
    few = replace(process, alphas_cumprod=process.alphas_cumprod[:400])
    assert make_schedule(process, 6, until=0.4).steps == make_schedule(few, 6).steps


def test_more_steps_than_a_share_of_the_timesteps_are_refused() -> None:
    process = read_forward_process(SD14)
    assert len(make_schedule(process, 250, until=0.25).steps) == 250
    with pytest.raises(ValueError, match="got 251, allowed is an integer from 1 to 250, 0.25 of the number"):
        make_schedule(process, 251, until=0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name is 'FlowMatchEuler"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid', allowed: linear, scaled_linear"),
        ({"prediction_type": "sample"}, "prediction_type is 'sample', allowed: epsilon, v_prediction"),
        ({"timestep_spacing": "odd"}, "timestep_spacing is 'odd'"),
        ({"beta_end": None}, "beta_end is missing"),
    ],
)
def test_unknown_settings_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_forward_process({**SD14, **changes})


def test_defaults_that_a_configuration_leaves_out_are_its_scheduler_class_s() -> None:
    bare = {name: value for name, value in SD14.items() if name not in ("set_alpha_to_one", "steps_offset")}
    assert not read_forward_process(bare).set_alpha_to_one
    ddim = read_forward_process({**bare, "_class_name": "DDIMScheduler"})
    assert (ddim.set_alpha_to_one, ddim.steps_offset, ddim.spacing) == (True, 0, "leading")
