"""Settings: defaults, mistakes all told at once with the nearest right name, and what builds need."""

import pytest
import torch

from p2l_engine import operators

NAMES = ["super_resolution", "inpainting", "gaussian_blur", "motion_blur", "blur", "denoising"]


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_has_a_default_for_every_setting(name: str) -> None:
    assert operators.validate(name, {}) == []
    resolved = operators.resolve(name, {})
    assert operators.validate(name, resolved) == []
    assert operators.resolve(name, resolved) == resolved


def test_defaults_are_the_papers() -> None:
    assert operators.resolve("super_resolution", {}) == {"factor": 8}
    assert operators.resolve("inpainting", {}) == {"mask": "free_form", "fraction": "10-20%"}
    assert operators.resolve("gaussian_blur", {}) == {"size": 61, "sigma": 3.0, "padding": "reflect"}
    assert operators.resolve("motion_blur", {}) == {"size": 61, "intensity": 0.5, "padding": "reflect"}
    assert operators.resolve("inpainting", {"mask": "random"})["fraction"] == 0.8


@pytest.mark.parametrize("written", ["20-30", "20-30%", "20-30 %", " 20 - 30 %"])
def test_a_free_form_class_has_one_form_however_it_is_written(written: str) -> None:
    assert operators.resolve("inpainting", {"fraction": written})["fraction"] == "20-30%"


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("super_resolutoin", {}, "did you mean super_resolution?"),
        (None, {}, "name: got None; allowed: super_resolution, inpainting"),
        (
            "super_resolution",
            {"facter": 4},
            "facter: no setting of super_resolution; allowed: factor; did you mean factor?",
        ),
        ("denoising", {"sigma": 1}, "sigma: no setting of denoising; allowed: none"),
        ("super_resolution", {"factor": 0}, "factor: got 0; allowed: a whole number of at least 1"),
        ("super_resolution", {"factor": 2.5}, "factor: got 2.5"),
        ("super_resolution", {"factor": True}, "factor: got True"),
        ("inpainting", {"mask": "free-form"}, "did you mean free_form?"),
        ("inpainting", {"mask": ["box"]}, "mask: got ['box']"),
        (
            "inpainting",
            {"fraction": 0.15},
            "fraction: got 0.15; allowed: a class of dropped share: 1-10%, 10-20%",
        ),
        ("inpainting", {"fraction": "15-25%"}, "fraction: got '15-25%'"),
        (
            "inpainting",
            {"mask": "random", "fraction": 1.0},
            "fraction: got 1.0; allowed: the share of pixels dropped",
        ),
        ("inpainting", {"mask": "random", "fraction": "10-20%"}, "fraction: got '10-20%'"),
        ("inpainting", {"mask": "box", "fraction": 0}, "fraction: got 0"),
        ("inpainting", {"mask": "given", "fraction": 0.5}, "fraction: got 0.5; allowed: nothing"),
        ("gaussian_blur", {"size": 60}, "size: got 60; allowed: an odd whole number of at least 3"),
        ("gaussian_blur", {"sigma": 0}, "sigma: got 0"),
        ("gaussian_blur", {"sigma": float("nan")}, "sigma: got nan"),
        ("gaussian_blur", {"sigma": "3"}, "sigma: got '3'"),
        ("gaussian_blur", {"padding": "zeros"}, "padding: got 'zeros'; allowed: reflect, circular"),
        ("motion_blur", {"intensity": 1.5}, "intensity: got 1.5; allowed: a number from 0 to 1"),
        ("blur", {"kernel": "gaussian"}, "kernel: got 'gaussian'; allowed: given"),
    ],
)
def test_a_mistake_says_what_was_got_and_what_is_allowed(name: str, settings: dict, problem: str) -> None:
    problems = operators.validate(name, settings)
    assert len(problems) == 1
    assert problem in problems[0]
    with pytest.raises(ValueError) as raised:
        operators.build(name, **settings)
    assert problems[0] in str(raised.value)


def test_all_mistakes_are_told_at_once() -> None:
    problems = operators.validate("gaussian_blur", {"size": 2, "sigma": -1, "padding": "none", "sise": 1})
    assert sorted(problem.split(":")[0] for problem in problems) == ["padding", "sigma", "sise", "size"]


def test_what_rows_must_bring_is_told() -> None:
    assert operators.needs("inpainting", {"mask": "given"}) == {"mask"}
    assert operators.needs("inpainting", {"mask": "random"}) == set()
    assert operators.needs("blur", {}) == {"kernel"}
    assert operators.needs("super_resolution", {"factor": 2}) == set()


@pytest.mark.parametrize(
    ("name", "given", "missing"),
    [
        ("inpainting", {"mask": "given"}, "no masks"),
        ("inpainting", {"mask": "random", "generators": [torch.Generator()]}, "no image_shape"),
        ("inpainting", {"mask": "random", "image_shape": (3, 8, 8)}, "no generators"),
        ("motion_blur", {"generators": []}, "no generators"),
        ("blur", {}, "no kernels"),
        ("super_resolution", {"masks": torch.ones(1, 1, 8, 8)}, "got masks; allowed: only for inpainting"),
        ("inpainting", {"kernels": torch.ones(1, 1, 1, 1)}, "got kernels; allowed: only for blur"),
        ("super_resolution", {"factor": 3, "image_shape": (3, 8, 8)}, "multiples of the factor 3"),
        ("denoising", {"image_shape": (8, 8)}, r"got an image of shape \(8, 8\)"),
    ],
)
def test_a_build_that_lacks_something_or_gets_too_much_says_so(name: str, given: dict, missing: str) -> None:
    with pytest.raises(ValueError, match=f"{missing}"):
        operators.build(name, **given)
