"""The ready job files are valid, and name the settings of the paper."""

from __future__ import annotations

import pytest

from jobs import configs
from p2l_engine.solvers import Sampler
from pipeline.config import load_config

PAPER = ("sr8", "gaussian_blur", "motion_blur", "inpainting_free_form", "large_768")


def test_every_ready_configuration_is_known() -> None:
    assert set(configs.names()) == {"demo", "pixel", *PAPER}


@pytest.mark.parametrize("name", PAPER)
def test_a_configuration_of_the_paper_is_valid_before_any_weights_load(name: str) -> None:
    job = load_config(configs.locate(name))
    assert job.model.id == "CompVis/stable-diffusion-v1-4"
    assert isinstance(job.method, Sampler) and (job.method.preset, job.method.steps) == ("imagenet", 1000)
    assert job.noise == 0.01


def test_the_configuration_over_pixels_is_the_papers_on_the_shipped_model() -> None:
    job = load_config(configs.locate("pixel"))
    assert isinstance(job.method, Sampler) and (job.method.name, job.method.preset) == ("diffpir", "paper")
    assert (job.model.id, job.size) == ("tiny-pixel", (64, 64))


def test_what_is_no_ready_configuration_is_taken_for_a_path() -> None:
    assert configs.locate("jobs/my.yaml") == "jobs/my.yaml"
