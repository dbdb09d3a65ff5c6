"""The accelerators that a plan can speak of, and their rates."""

from __future__ import annotations

DATASHEET_TFLOPS = {  # dense 16-bit matrix rate
    "t4": 65,
    "a10g": 70,
    "rtx3090": 71,
    "l4": 121,
    "v100": 125,
    "a100": 312,
    "h100": 989,
    "h200": 989,
}
HERE = "here"  # the name under which this machine is given a price


def check_accelerator(name: str) -> str:
    """The accelerator that a name means, without its suffix. Raises ValueError for one that is not known."""
    base = name.lower().split("-")[0]
    if base != HERE and base not in DATASHEET_TFLOPS:
        raise ValueError(
            f"accelerator: got {name!r}; allowed: {HERE}, {', '.join(DATASHEET_TFLOPS)}, "
            "each also with a suffix as in a100-spot"
        )
    return base
