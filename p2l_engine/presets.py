"""Settings by preset, operator and method: the paper's (Table 6, App. D.3), others', the shipped models'."""

from typing import Any

Settings = dict[str, Any]


def _gd(step_size: float, step_schedule: str = "constant") -> Settings:
    return {"rule": "gd", "step_size": step_size, "step_schedule": step_schedule}


def _adam(step_size: float) -> Settings:
    return {"rule": "adam", "step_size": step_size}


def _p2l(guidance: Settings, every: int, weight: float, iterations: int, learning_rate: float) -> Settings:
    """A column of Table 6: gradient type and rho_t, gamma, lambda, K, learning rate."""
    return {
        "guidance": guidance,
        "projection": {"every": every, "weight": weight},
        "prompt_tuning": {"iterations": iterations, "learning_rate": learning_rate},
    }


def _tiny(
    without: float, rho: float, learning_rate: float, of_dps: float = 12.0, of_resample: float = 8.0
) -> dict[str, Settings]:
    """Every method for the shipped models; rho of steps without projection, with it, and of others."""
    baseline = {"steps": TINY_STEPS, "guidance": _gd(without, "alpha_bar")}
    found: dict[str, Settings] = {
        "p2l": {
            "steps": TINY_STEPS,
            "guidance": _gd(rho, "alpha_bar"),
            "projection": EVERY_STEP,
            "prompt_tuning": {"iterations": 1, "learning_rate": learning_rate},
        },
        "ldps": baseline,
        "gml_dps": baseline,
        "psld": baseline,
        "ldir": {"steps": TINY_STEPS, "guidance": _adam(0.05)},
        "resample": {
            "steps": TINY_STEPS,
            "every": 3,
            "ahead": 2,
            "guidance": {"step_size": of_resample},
            "pixel": {"iterations": 50},
            "latent": {"learning_rate": 0.05, "iterations": 10},
        },
        "dps": {"steps": PIXEL_STEPS, "step_size": of_dps, "clamp": True},
        **TINY_ELSEWHERE,
    }
    return {name: {**settings, "finish": {}} for name, settings in found.items()}


def _with_p2l(columns: dict[str, dict[str, Settings]], **settings: Any) -> dict[str, dict[str, Settings]]:
    """The same with other settings of P2L."""
    return {column: {**methods, "p2l": {**methods["p2l"], **settings}} for column, methods in columns.items()}


def _cheaper(
    columns: dict[str, dict[str, Settings]], iterations: int, **settings: Any
) -> dict[str, dict[str, Settings]]:
    """P2L of these columns through a small decoder, with other settings.

    Prompts are tuned through the network alone, in iterations that share the column's learning rate.
    """
    found = {}
    for column, methods in columns.items():
        p2l, tuned = methods["p2l"], None
        if iterations:
            rate = p2l["prompt_tuning"]["learning_rate"] / iterations
            tuned = {"iterations": iterations, "learning_rate": rate, "through": "network"}
        found[column] = {"p2l": {**p2l, "small_decoder": "auto", "prompt_tuning": tuned, **settings}}
    return found


def _daps(iterations: int, step_size: float, momentum: float, last: float = 1.0) -> dict[str, Settings]:
    """A task of the authors' configurations for Stable Diffusion, whose images of 256 are restored at 512."""
    dynamics = {"iterations": iterations, "step_size": step_size, "momentum": momentum, "last": last}
    return {"daps": {"dynamics": dynamics}}


# Of LATINO's authors, for Stable Diffusion 1.5 with LCM-LoRA, which was distilled at 50 timesteps. A task
# without a delta has the discrepancy rule; so has LATINO-PRO, whose deltas are for SDXL alone.
LCM_LORA: Settings = {"grid": 50, "result": "latent"}
LATINO: dict[str, Settings] = {"latino": LCM_LORA, "latino_pro": LCM_LORA}


def _latino(early: float, late: float, split: int, of: str = "residual") -> dict[str, Settings]:
    """A task of the authors' table for LATINO with LCM-LoRA, at 512."""
    delta = {"early": early, "late": late, "split": split, "of": of}
    return {"latino": {**LCM_LORA, "delta": delta}}


# Stable Diffusion's text encoder was trained with this image tower.
SD_TREG: dict[str, Settings] = {"treg": {"negation": {"tower": "openai/clip-vit-large-patch14"}}}
# The examples of the authors' README; their program's own default is a scale of 4.
AUTHORS_TREG: dict[str, Settings] = {
    "treg": {**SD_TREG["treg"], "guidance_scale": 5.0, "null_prompt": "out of focus, depth of field"}
}

TINY_STEPS, PIXEL_STEPS = 20, 50
MEAN: Settings = {"samples": 8, "toward": "total_variation"}
# The proximal map to the noise of y at every step, with the noise beside it drawn anew.
EVERY_STEP: Settings = {"every": 1, "weight": "discrepancy", "fresh_noise": 1.0}
# Methods with a loop of their own, alike for every operator.
TINY_ELSEWHERE: dict[str, Settings] = {
    "treg": {
        "steps": TINY_STEPS,
        "guidance_scale": 2.0,
        "data": {"every": 1, "until": 1.0, "weight": 0.01},
        "negation": {"tower": "tiny"},
    },
    "daps": {
        "steps": 10,
        "flow_steps": 1,
        "guidance_scale": 1.0,
        "dynamics": {"iterations": 10, "momentum": 0.9, "tau": 0.02},
    },
    "latino": {"steps": 8},
    "latino_pro": {"steps": 8},
    "diffpir": {"steps": PIXEL_STEPS, "weight": 7.0, "zeta": 1.0, "clamp": True},
    "dds": {"steps": PIXEL_STEPS, "weight": 0.01, "eta": 0.85},
    "pigdm": {"steps": PIXEL_STEPS},
}
TINY = {
    "motion_blur": _tiny(10.0, 1.0, 0.1, of_dps=1.0, of_resample=3.0),
    "gaussian_blur": _tiny(15.0, 3.0, 0.1, of_dps=1.0, of_resample=3.0),
    "blur": _tiny(15.0, 3.0, 0.1, of_dps=1.0, of_resample=3.0),
    "super_resolution": _tiny(15.0, 8.0, 0.01),
    "super_resolution x8": _tiny(45.0, 15.0, 0.01),
    "inpainting": _tiny(8.0, 5.0, 0.1),
    "inpainting free_form": _tiny(8.0, 3.0, 0.1),
    "denoising": _tiny(8.0, 5.0, 0.1),
    "linear": _tiny(8.0, 5.0, 0.1),
}

WITHOUT_HOLES = {column: methods for column, methods in TINY.items() if not column.startswith("inpainting")}
# Where few steps gain by a warm start; for blurs they do not, or its hundred linear systems outweigh them.
WARM = {
    column: methods
    for column, methods in TINY.items()
    if column.startswith(("super_resolution", "inpainting"))
}

# App. D.3 for methods over pixels, where it differs from their fields' defaults, which are those for blur.
PAPER: dict[str, dict[str, Settings]] = {
    "motion_blur": {},
    "gaussian_blur": {"dds": {"eta": 0.0}},
    "blur": {},
    "super_resolution": {"diffpir": {"weight": 35.0, "zeta": 0.35}, "dps": {"eta": 0.0}},
    "inpainting": {"diffpir": {"zeta": 1.0}},
}


def _authors(step_size: float, zeta: float) -> dict[str, Settings]:
    """Each method's own code: zeta of DPS, and of DiffPIR, whose lambda 1 is for pixels in [0, 1]."""
    return {
        "dps": {"step_size": step_size, "clamp": True},
        "diffpir": {"weight": 0.25, "zeta": zeta, "clamp": True},
        "dds": {"steps": 50, "eta": 0.85, "noise": "share"},
        "pigdm": {"eta": 0.0},
        **AUTHORS_TREG,
        **LATINO,
    }


SR_AUTHORS = _authors(0.3, 0.25) | _daps(30, 1e-4, 0.45)
AUTHORS = {
    "motion_blur": _authors(0.3, 0.1) | _daps(30, 2e-5, 0.85) | _latino(8e-4, 7e-4, 400),
    "gaussian_blur": _authors(0.3, 0.1) | _daps(40, 1e-5, 0.9) | _latino(1e-3, 4e-4, 300),
    "blur": _authors(0.3, 0.1),
    "super_resolution": SR_AUTHORS,
    "super_resolution x16": SR_AUTHORS | _latino(0.02, 0.002, 300, "residual_by_noise"),
    "super_resolution x32": SR_AUTHORS | _latino(2.0, 0.9, 300),
    "inpainting": _authors(0.5, 1.0) | _daps(15, 3e-5, 0.6),
    "inpainting box": _authors(0.5, 1.0)
    | _daps(58, 1.11e-6, 0.92, last=0.43)
    | _latino(1.0, 0.5, 500, "one"),
}

OF_SHIPPED: dict[str, dict[str, dict[str, Settings]]] = {  # chosen on the shipped model
    "tiny": TINY,
    # Algorithm 3; and the mean of eight restorations, drawn toward total variation, whose prompts are tuned
    # for holes, where they end by it.
    "tiny_adam": _with_p2l(TINY, guidance=_adam(0.1) | {"step_schedule": "alpha_bar"}),
    "tiny_psnr": _with_p2l(TINY, **MEAN, finish={"by": "total_variation"})
    | _with_p2l(WITHOUT_HOLES, **MEAN, prompt_tuning=None),
    # By what they cost an image with Stable Diffusion at 512: docs/speed.md.
    "fast": _cheaper(TINY, 3),
    "balanced": _cheaper(TINY, 1),
    "instant": _cheaper(TINY, 0, steps=6) | _cheaper(WARM, 0, steps=6, warm_start={"at": 0.4}),
}

PRESETS: dict[str, dict[str, dict[str, Settings]]] = {
    "ffhq": {
        "motion_blur": {"p2l": _p2l(_adam(0.05), 5, 1.0, 3, 5e-5), **SD_TREG},
        "gaussian_blur": {"p2l": _p2l(_adam(0.05), 4, 1.0, 5, 1e-4), **SD_TREG},
        "super_resolution": {"p2l": _p2l(_gd(1.0), 4, 1.0, 5, 1e-4), **SD_TREG},
        "inpainting": {"p2l": _p2l(_adam(0.05), 3, 0.1, 1, 1e-4), **SD_TREG},
    },
    "imagenet": {
        "motion_blur": {
            "p2l": _p2l(_adam(0.1), 5, 1.0, 3, 1e-5),
            "ldir": {"guidance": _adam(0.1)},
            **SD_TREG,
        },
        "gaussian_blur": {"p2l": _p2l(_gd(1.0, "alpha_bar"), 4, 1.0, 3, 1e-4), **SD_TREG},
        "super_resolution": {"p2l": _p2l(_gd(15.0, "alpha_bar"), 4, 1.0, 3, 1e-5), **SD_TREG},
        "inpainting": {"p2l": _p2l(_gd(0.5), 3, 0.1, 1, 1e-4), **SD_TREG},
    },
    **OF_SHIPPED,
    "paper": PAPER,
    "authors": AUTHORS,
}

_OF_TABLE_6 = ("ldps", "gml_dps", "psld", "ldir")
# Methods that a preset has as they are by default, where it says nothing else.
AS_DEFAULT: dict[str, tuple[str, ...]] = {
    "ffhq": _OF_TABLE_6,
    "imagenet": _OF_TABLE_6,
    "paper": ("dps", "diffpir", "dds", "pigdm"),
    "authors": ("resample",),
}
