"""Methods as values: presets, merging, and what is said of mistakes."""

from typing import Any

import pytest

from p2l_engine import methods
from p2l_engine.presets import PRESETS
from p2l_engine.solvers.p2l import P2L
from p2l_engine.solvers.parts.guidance import FixedPoint, Guidance
from p2l_engine.solvers.parts.prompt_tuning import PromptTuning


def built(name: str, preset: str | None = None, operator: str | None = None, **settings: Any) -> P2L:
    solver = methods.build(name, preset, operator, **settings)
    assert isinstance(solver, P2L)
    return solver


def guidance_of(name: str, preset: str | None = None, operator: str | None = None) -> Guidance:
    guidance = built(name, preset, operator).guidance
    assert guidance is not None
    return guidance


TABLE_6 = {  # read column by column: rule, rho, its schedule, gamma, lambda, K, learning rate
    ("ffhq", "motion_blur"): ("adam", 0.05, "constant", 5, 1.0, 3, 5e-5),
    ("ffhq", "gaussian_blur"): ("adam", 0.05, "constant", 4, 1.0, 5, 1e-4),
    ("ffhq", "super_resolution"): ("gd", 1.0, "constant", 4, 1.0, 5, 1e-4),
    ("ffhq", "inpainting"): ("adam", 0.05, "constant", 3, 0.1, 1, 1e-4),
    ("imagenet", "motion_blur"): ("adam", 0.1, "constant", 5, 1.0, 3, 1e-5),
    ("imagenet", "gaussian_blur"): ("gd", 1.0, "alpha_bar", 4, 1.0, 3, 1e-4),
    ("imagenet", "super_resolution"): ("gd", 15.0, "alpha_bar", 4, 1.0, 3, 1e-5),
    ("imagenet", "inpainting"): ("gd", 0.5, "constant", 3, 0.1, 1, 1e-4),
}


@pytest.mark.parametrize(("preset", "operator"), TABLE_6)
def test_a_preset_is_the_column_of_table_6(preset: str, operator: str) -> None:
    method = built("p2l", preset, operator)
    guidance, projection, tuning = method.guidance, method.projection, method.prompt_tuning
    assert guidance is not None and projection is not None and tuning is not None
    assert TABLE_6[preset, operator] == (
        guidance.rule,
        guidance.step_size,
        guidance.step_schedule,
        projection.every,
        projection.weight,
        tuning.iterations,
        tuning.learning_rate,
    )
    assert (method.steps, projection.onto, guidance.residual) == (1000, "proximal", "norm")


TINY = {  # of the shipped model: rho of LDPS; rho and learning rate of P2L
    "motion_blur": (10.0, 1.0, 0.1),
    "gaussian_blur": (15.0, 3.0, 0.1),
    "blur": (15.0, 3.0, 0.1),
    "super_resolution": (15.0, 8.0, 0.01),
    "super_resolution x8": (45.0, 15.0, 0.01),
    "super_resolution x4": (15.0, 8.0, 0.01),  # no column of its own
    "inpainting": (8.0, 5.0, 0.1),
    "inpainting random": (8.0, 5.0, 0.1),
    "inpainting free_form": (8.0, 3.0, 0.1),
    "denoising": (8.0, 5.0, 0.1),
    "linear": (8.0, 5.0, 0.1),
}


@pytest.mark.parametrize("operator", TINY)
def test_the_shipped_models_settings_are_those_of_the_published_figures(operator: str) -> None:
    p2l, ldps = built("p2l", "tiny", operator), built("ldps", "tiny", operator)
    assert p2l.guidance and p2l.projection and p2l.prompt_tuning and ldps.guidance
    assert TINY[operator] == (
        ldps.guidance.step_size,
        p2l.guidance.step_size,
        p2l.prompt_tuning.learning_rate,
    )
    assert {p2l.guidance.step_schedule, ldps.guidance.step_schedule} == {"alpha_bar"}
    assert (p2l.steps, p2l.prompt_tuning.iterations) == (20, 1)
    assert (p2l.projection.every, p2l.projection.weight, p2l.projection.fresh_noise) == (1, "discrepancy", 1)
    assert p2l.finish and p2l.finish.weight == "discrepancy"


@pytest.mark.parametrize("operator", TINY)
def test_the_preset_for_psnr_is_the_mean_of_eight_that_does_more_for_holes_alone(operator: str) -> None:
    """It tunes prompts, and ends by total variation."""
    tiny, psnr = (built("p2l", preset, operator).model_dump() for preset in ("tiny", "tiny_psnr"))
    changes: dict[str, Any] = {"prompt_tuning": None}
    if operator.startswith("inpainting"):
        changes = {"finish": tiny["finish"] | {"by": "total_variation"}}
    mean = {"preset": "tiny_psnr", "samples": 8, "toward": "total_variation"}
    assert psnr == tiny | mean | changes


@pytest.mark.parametrize("operator", TINY)
@pytest.mark.parametrize(
    ("preset", "steps", "iterations"), [("fast", 20, 3), ("balanced", 20, 1), ("instant", 6, 0)]
)
def test_cheaper_presets_differentiate_through_a_small_decoder(
    preset: str, operator: str, steps: int, iterations: int
) -> None:
    """All else is as in the preset that they are made of."""
    tiny, cheaper = (built("p2l", name, operator).model_dump() for name in ("tiny", preset))
    tuning = None
    if iterations:
        shared = {"learning_rate": tiny["prompt_tuning"]["learning_rate"] / iterations}
        tuning = tiny["prompt_tuning"] | shared | {"iterations": iterations, "through": "network"}
    changes = {"preset": preset, "steps": steps, "small_decoder": "auto", "prompt_tuning": tuning}
    if preset == "instant" and operator.startswith(("super_resolution", "inpainting")):
        changes["warm_start"] = {"at": 0.4}
    assert cheaper == tiny | changes


PIXEL_METHODS = ("dps", "diffpir", "dds", "pigdm")
PIXELS: dict[
    tuple[str, str, str], tuple[int, dict[str, Any]]
] = {  # App. D.3, and each method's own code: steps, then what the method has
    ("paper", "dps", "super_resolution"): (1000, {"step_size": 1.0, "eta": 0.0, "clamp": False}),
    ("paper", "dps", "inpainting"): (1000, {"step_size": 1.0, "eta": 1.0, "clamp": False}),
    ("paper", "dds", "gaussian_blur"): (100, {"weight": 1.0, "eta": 0.0, "noise": "ddim"}),
    ("paper", "dds", "motion_blur"): (100, {"weight": 1.0, "eta": 1.0, "noise": "ddim"}),
    ("paper", "diffpir", "super_resolution"): (100, {"weight": 35.0, "zeta": 0.35, "clamp": False}),
    ("paper", "diffpir", "gaussian_blur"): (100, {"weight": 7.0, "zeta": 0.3, "clamp": False}),
    ("paper", "diffpir", "inpainting"): (100, {"weight": 7.0, "zeta": 1.0, "clamp": False}),
    ("paper", "pigdm", "super_resolution"): (100, {"eta": 1.0}),
    ("authors", "dps", "super_resolution"): (1000, {"step_size": 0.3, "eta": 1.0, "clamp": True}),
    ("authors", "dps", "inpainting"): (1000, {"step_size": 0.5, "eta": 1.0, "clamp": True}),
    ("authors", "dds", "inpainting"): (50, {"weight": 1.0, "eta": 0.85, "noise": "share"}),
    ("authors", "diffpir", "super_resolution"): (100, {"weight": 0.25, "zeta": 0.25, "clamp": True}),
    ("authors", "diffpir", "motion_blur"): (100, {"weight": 0.25, "zeta": 0.1, "clamp": True}),
    ("authors", "diffpir", "inpainting"): (100, {"weight": 0.25, "zeta": 1.0, "clamp": True}),
    ("authors", "pigdm", "inpainting"): (100, {"eta": 0.0}),
}


@pytest.mark.parametrize(("preset", "name", "operator"), PIXELS)
def test_methods_over_pixels_have_the_papers_and_their_authors_settings(
    preset: str, name: str, operator: str
) -> None:
    steps, settings = PIXELS[preset, name, operator]
    found = methods.build(name, preset, operator).model_dump()
    unlike = {"name", "preset", "class_label"}
    assert {key: value for key, value in found.items() if key not in unlike} == {"steps": steps, **settings}


@pytest.mark.parametrize(
    ("preset", "name", "kinds"),
    [("imagenet", "dds", "latent"), ("paper", "p2l", "pixel")],
)
def test_a_preset_for_methods_of_the_other_kind_is_refused(preset: str, name: str, kinds: str) -> None:
    (problem,) = methods.validate({"name": name, "preset": preset}, "super_resolution")
    assert problem == f"preset: got {preset}, which has settings for {kinds} methods"


@pytest.mark.parametrize("operator", TINY)
def test_methods_over_pixels_have_settings_for_the_shipped_model(operator: str) -> None:
    found = {name: methods.build(name, "tiny", operator).model_dump() for name in PIXEL_METHODS}
    assert {settings["steps"] for settings in found.values()} == {50}
    assert found["dps"]["step_size"] == (1.0 if "blur" in operator else 12.0)


def test_baselines_are_settings_of_the_same_loop() -> None:
    for name in ("ldps", "gml_dps", "psld", "ldir"):
        method = built(name)
        assert method.prompt_tuning is None and method.projection is None and method.guidance is not None
    assert guidance_of("ldps").fixed_point is None
    assert guidance_of("gml_dps").fixed_point == FixedPoint(weight=0.1, onto="none")
    assert guidance_of("psld").fixed_point == FixedPoint(weight=0.1, onto="gluing")
    assert guidance_of("ldir").rule == "adam"
    assert guidance_of("ldir", "imagenet", "motion_blur").step_size == 0.1
    assert guidance_of("ldir", "imagenet", "inpainting").step_size == 0.05


@pytest.mark.parametrize(
    ("operator", "iterations", "step_size", "momentum", "last"),
    [
        ("super_resolution x4", 30, 1e-4, 0.45, 1.0),
        ("gaussian_blur", 40, 1e-5, 0.9, 1.0),
        ("motion_blur", 30, 2e-5, 0.85, 1.0),
        ("inpainting random", 15, 3e-5, 0.6, 1.0),
        ("inpainting box", 58, 1.11e-6, 0.92, 0.43),
    ],
)
def test_the_authors_settings_of_daps_are_those_of_their_configurations(
    operator: str, iterations: int, step_size: float, momentum: float, last: float
) -> None:
    dynamics = methods.build("daps", "authors", operator).model_dump()["dynamics"]
    assert dynamics == {
        "iterations": iterations,
        "step_size": step_size,
        "momentum": momentum,
        "last": last,
        "tau": 0.01,
    }


@pytest.mark.parametrize(
    ("operator", "delta"),
    [
        ("super_resolution x8", None),
        ("super_resolution x16", (0.02, 0.002, 300, "residual_by_noise")),
        ("super_resolution x32", (2.0, 0.9, 300, "residual")),
        ("gaussian_blur", (1e-3, 4e-4, 300, "residual")),
        ("motion_blur", (8e-4, 7e-4, 400, "residual")),
        ("inpainting box", (1.0, 0.5, 500, "one")),
        ("inpainting random", None),
    ],
)
def test_the_authors_settings_of_latino_are_those_of_their_code_with_lcm_lora(
    operator: str, delta: tuple[float, float, int, str] | None
) -> None:
    found = methods.build("latino", "authors", operator).model_dump()
    assert (found["steps"], found["grid"], found["result"]) == (8, 50, "latent")
    assert (found["delta"] and tuple(found["delta"].values())) == delta
    assert methods.build("daps", "authors", operator).model_dump()["dynamics"]["tau"] == 0.01
    pro = methods.build("latino_pro", "authors", operator).model_dump()
    assert (pro["delta"], pro["grid"], pro["result"]) == (None, 50, "latent")
    assert pro["prompt_ascent"] == {
        "rounds": 15,
        "steps": 4,
        "step_size": 0.08,
        "radius": 15.0,
        "fixed_tokens": 4,
    }


def test_the_authors_settings_of_treg_are_those_of_their_examples() -> None:
    authors = methods.build("treg", "authors", "super_resolution").model_dump()
    paper = methods.build("treg", "imagenet", "super_resolution").model_dump()
    null_prompt = "out of focus, depth of field"
    assert authors == paper | {"preset": "authors", "guidance_scale": 5.0, "null_prompt": null_prompt}
    tower = {"tower": "openai/clip-vit-large-patch14", "learning_rate": 1e-3, "iterations": 10}
    assert (paper["guidance_scale"], paper["null_prompt"], paper["negation"]) == (7.5, "", tower)


@pytest.mark.parametrize(
    ("block", "start"),
    [
        ({"name": "p2l", "steps": 3}, "projection.every is 4, above the 3 steps"),
        ({"name": "p2l", "projection": {"onto": "gluing", "weight": 5.0}}, "projection.weight is 5.0"),
        (
            {"name": "p2l", "projection": {"onto": "none", "weight": "discrepancy"}},
            "projection.weight is dis",
        ),
        ({"name": "p2l", "steps": 20, "prompt_tuning": {"between": [0.01, 0.02]}}, "prompt_tuning.between"),
        ({"name": "latino", "prompt_tuning": {"between": [0.01, 0.02]}}, "prompt_tuning.between is [0.01, "),
        (
            {"name": "ldps", "steps": 20, "guidance": {"state_subspace": {"every": 50}}},
            "guidance.state_subsp",
        ),
        ({"name": "ldps", "patches": {"weights": "uniform", "variance": 0.5}}, "patches.variance is 0.5"),
        ({"name": "latino", "delta": {"early": 1, "late": 1, "split": 9}, "discrepancy": 3.0}, "discrepancy"),
        ({"name": "daps", "guidance_scale": 1.0, "null_prompt": "blurry"}, "null_prompt is 'blurry'"),
        (
            {"name": "p2l", **dict.fromkeys(("guidance", "projection", "prompt_tuning"))},
            "prompt_tuning, proj",
        ),
        ({"name": "treg"}, "negation is null"),
        ({"name": "treg", "guidance_scale": 1.0, "negation": {"tower": "tiny"}}, "negation is set"),
        ({"name": "resample", "every": 1000}, "every is 1000"),
    ],
    ids=str,
)
def test_a_setting_that_does_nothing_is_doubted(block: dict[str, Any], start: str) -> None:
    (doubt,) = methods.from_block(block).doubts()
    assert doubt.startswith(start)


def test_no_preset_sets_what_does_nothing() -> None:
    settings = {
        (preset, column, name)
        for preset, columns in PRESETS.items()
        for column, blocks in columns.items()
        for name in blocks
    }
    assert [found for found in settings if methods.build(found[2], *found[:2]).doubts()] == []


@pytest.mark.parametrize("preset", ["fast", "balanced", "instant"])
def test_a_preset_of_p2l_is_refused_for_other_methods(preset: str) -> None:
    (problem,) = methods.validate({"name": "ldps", "preset": preset}, "super_resolution x8")
    got = f"preset: got {preset}, which has no settings for ldps and super_resolution x8; allowed: tiny, "
    assert problem.startswith(got)
    assert problem.endswith("or p2l with it")


def test_latino_pro_without_its_ascent_is_refused() -> None:
    (problem,) = methods.validate({"name": "latino_pro", "prompt_ascent": None})
    assert problem == "prompt_ascent: got None; allowed: its settings, or the method latino, which has none"


def test_settings_are_laid_over_the_preset_key_by_key() -> None:
    method = built("p2l", "ffhq", "super_resolution", prompt_tuning={"iterations": 1}, projection=None)
    assert method.prompt_tuning == PromptTuning(iterations=1, learning_rate=1e-4)
    assert method.projection is None


def test_every_mistake_is_named_with_the_nearest_right_key() -> None:
    problems = methods.validate(
        {"name": "p2l", "projektion": None, "guidance": {"step_sise": 2, "rule": "sgd"}}
    )
    said = "\n".join(problems)
    assert len(problems) == 3
    assert "projektion" in said and "did you mean projection" in said
    assert "guidance.step_sise" in said and "did you mean step_size" in said
    assert "guidance.rule: got 'sgd'" in said and "'adam'" in said


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"name": "p3l"}, "did you mean p2l"),
        ({"name": "adjoint", "steps": 10}, "nothing but the name"),
        ({"preset": "celeba"}, "ffhq, imagenet, tiny"),
        ({"preset": "ffhq"}, "no column for the operator 'denoising'"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"guidance": {"step_size": float("nan")}}, "finite"),
    ],
)
def test_a_mistake_says_what_is_allowed(block: dict[str, object], part: str) -> None:
    assert part in "\n".join(methods.validate(block, "denoising"))


@pytest.mark.parametrize(
    ("name", "preset", "column"),
    [
        ("p2l", "authors", "super_resolution"),
        ("daps", "ffhq", "super_resolution"),
        ("latino", "imagenet", "super_resolution"),
        ("daps", "authors", "blur"),
    ],
)
def test_a_preset_of_others_is_refused_for_a_method_it_says_nothing_of(
    name: str, preset: str, column: str
) -> None:
    (problem,) = methods.validate({"name": name, "preset": preset}, column)
    assert problem.startswith(f"preset: got {preset}, which has no settings for {name} and {column}; allowed")
    assert "null" in problem


@pytest.mark.parametrize(("name", "preset"), [("psld", "ffhq"), ("dps", "paper"), ("resample", "authors")])
def test_a_preset_takes_the_methods_that_have_its_settings_by_default(name: str, preset: str) -> None:
    built = methods.build(name, preset, "motion_blur")
    assert built == methods.build(name).model_copy(update={"preset": preset})
