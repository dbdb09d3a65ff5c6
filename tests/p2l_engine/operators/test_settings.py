"""Settings: defaults, mistakes all told at once with the nearest right name, and what builds need."""

import pytest
import torch

from p2l_engine import operators

NAMES = ["super_resolution", "inpainting", "gaussian_blur", "motion_blur", "blur", "denoising"]


def settings_of(name: str, **settings: object) -> dict[str, object]:
    return operators.from_block({"name": name, **settings}).model_dump(mode="json", exclude={"name"})


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_has_a_default_for_every_setting(name: str) -> None:
    assert operators.validate(name, {}) == []
    value = operators.from_block({"name": name})
    assert operators.from_block(value.model_dump(mode="json")) == value


def test_defaults_are_the_papers() -> None:
    assert operators.from_block({}) == operators.from_block({"name": "super_resolution"})
    assert settings_of("super_resolution") == {"factor": 8}
    assert settings_of("inpainting") == {"mask": "free_form", "fraction": "10-20%"}
    assert settings_of("gaussian_blur") == {"size": 61, "sigma": 3.0, "padding": "reflect"}
    assert settings_of("motion_blur") == {"size": 61, "intensity": 0.5, "padding": "reflect"}
    assert settings_of("inpainting", mask="random")["fraction"] == 0.8


@pytest.mark.parametrize("written", ["20-30", "20-30%", "20-30 %", " 20 - 30 %"])
def test_a_free_form_class_has_one_form_however_it_is_written(written: str) -> None:
    assert settings_of("inpainting", fraction=written)["fraction"] == "20-30%"


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


@pytest.mark.parametrize(
    ("block", "needs", "instead", "title"),
    [
        ({"name": "inpainting", "mask": "given"}, {"mask"}, None, "Inpainting, given"),
        ({"name": "inpainting"}, set(), "inpainting {mask: given}", "Inpainting, free form"),
        ({"name": "blur"}, {"kernel"}, None, "Blur"),
        ({"name": "motion_blur"}, set(), "blur", "Motion blur"),
        ({"name": "gaussian_blur"}, set(), None, "Gaussian blur"),
        ({"name": "super_resolution", "factor": 2}, set(), None, "Super resolution ×2"),
    ],
)
def test_settings_say_what_images_bring_and_what_is_drawn(
    block: dict, needs: set[str], instead: str | None, title: str
) -> None:
    settings = operators.from_block(block)
    assert (settings.needs, settings.title) == (needs, title)
    assert (settings.instead_of_drawn or "").startswith(instead or "")
    assert (settings.instead_of_drawn is None) == (instead is None)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_needs_no_image_to_bring_anything(name: str) -> None:
    A = operators.from_block({"name": name}).example(2, (3, 64, 72))
    assert A(torch.zeros(2, 3, 64, 72)).shape[0] == 2


def test_an_example_with_a_given_mask_has_holes() -> None:
    A = operators.from_block({"name": "inpainting", "mask": "given"}).example(1, (3, 4, 4))
    assert A(torch.ones(1, 3, 4, 4))[0, 0].sum(1).tolist() == [0, 4, 0, 4]


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


def test_where_y_alone_is_known_a_function_maps_images_of_its_size() -> None:
    settings = operators.from_block({"name": "linear", "function": "torch:neg"})
    assert settings.build(measurement_shape=(3, 4, 6)).image_shape((3, 4, 6)) == (3, 4, 6)
