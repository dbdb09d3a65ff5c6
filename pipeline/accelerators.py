"""The accelerators that a plan can speak of, and their datasheets' rates by dtype."""

from __future__ import annotations

from dataclasses import dataclass

HERE = "here"  # the name under which this machine is given a price
BFLOAT16_FROM = (8, 0)  # compute capability of the first GPUs whose matrix units take bfloat16: the A100's
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "tf32": 4, "float64": 8}


@dataclass(frozen=True)
class Accelerator:
    """Dense rates in TFLOP/s of matrix products. half: 16-bit numbers. tf32: None where there is none."""

    capability: tuple[int, int]
    half: float
    tf32: float | None
    single: float
    double: float


ACCELERATORS = {
    "t4": Accelerator((7, 5), half=65, tf32=None, single=8.1, double=0.25),
    "a10g": Accelerator((8, 6), half=70, tf32=35, single=35, double=0.55),
    "rtx3090": Accelerator((8, 6), half=71, tf32=35.6, single=35.6, double=0.56),
    "l4": Accelerator((8, 9), half=121, tf32=60, single=30.3, double=0.47),
    "v100": Accelerator((7, 0), half=125, tf32=None, single=15.7, double=7.8),
    "a100": Accelerator((8, 0), half=312, tf32=156, single=19.5, double=19.5),
    "h100": Accelerator((9, 0), half=989, tf32=494, single=67, double=67),
    "h200": Accelerator((9, 0), half=989, tf32=494, single=67, double=67),
}


def check_accelerator(name: str) -> str:
    """The accelerator that a name means, without its suffix. Raises ValueError for one that is not known."""
    base = name.lower().split("-")[0]
    if base != HERE and base not in ACCELERATORS:
        raise ValueError(
            f"accelerator: got {name!r}; allowed: {HERE}, {', '.join(ACCELERATORS)}, "
            "each also with a suffix as in a100-spot"
        )
    return base


def own_dtype(capability: tuple[int, int] | None) -> str:
    """What dtype `auto` means for a GPU's compute capability; None for a CPU.

    Of the half types the one whose range is float32's: no image is lost to an overflow. Its gradients are ten
    times less exact than float16's, but off to no side: on the CPU two steps lose less than 0.05 dB to it,
    by every method (docs/speed.md). Neither was measured on a GPU here.
    """
    return "bfloat16" if capability is not None and capability >= BFLOAT16_FROM else "float32"


def dtype_on(accelerator: str, dtype: str) -> str:
    """The dtype that a job computes in on an accelerator of `ACCELERATORS`."""
    return own_dtype(ACCELERATORS[accelerator].capability) if dtype == "auto" else dtype


def datasheet_tflops(accelerator: str, dtype: str) -> float:
    """The rate of an accelerator of `ACCELERATORS` for a job's dtype, in TFLOP/s.

    Numbers that its matrix units do not take are multiplied as float32.
    """
    rates, dtype = ACCELERATORS[accelerator], dtype_on(accelerator, dtype)
    if dtype == "float64":
        return rates.double
    if dtype == "float16" or (dtype == "bfloat16" and rates.capability >= BFLOAT16_FROM):
        return rates.half
    return rates.tf32 or rates.single if dtype == "tf32" else rates.single
