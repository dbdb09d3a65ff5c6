"""Where the time of a restoration goes, backward passes too, and how variants of the same work compare."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

REST = "rest"
_OPERATOR = "operator"
# Of a prior's functions: their own part, and that of the gradient in each of their arguments.
PRIOR: Mapping[str, tuple[str, Sequence[str]]] = {
    "predict_noise": ("U-Net", ("U-Net backward to z", REST, "U-Net backward to the embedding")),
    "decode": ("decoder", ("decoder backward",)),
    "sketch": ("decoder", ("decoder backward",)),
    "encode": ("encoder", ("encoder",)),
}
OPERATOR: Mapping[str, tuple[str, Sequence[str]]] = dict.fromkeys(
    ("__call__", "adjoint", "proximal", "proximal_early", "glue", "backproject"),
    (_OPERATOR, (_OPERATOR,) * 3),
)
PARTS = (
    "U-Net",
    "U-Net backward to z",
    "U-Net backward to the embedding",
    "decoder",
    "decoder backward",
    "encoder",
    _OPERATOR,
    REST,
)


def reader(device: torch.device) -> Callable[[], float]:
    """Reads seconds: on a CPU of this process's cores, so that what else the machine does is not in them.

    On a GPU those that have passed when it has done what it was given.
    """
    if device.type != "cuda":
        return time.process_time

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


class Clock:
    """Charges all time to one part at a time, so that the parts' `seconds` add up to the whole."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._read = read
        self._part, self._since = REST, read()

    def switch(self, part: str) -> str:
        """Charges what has passed to the part that ran, which is returned; from here on `part` runs."""
        now = self._read()
        self.seconds[self._part] += now - self._since
        before, self._part, self._since = self._part, part, now
        return before


class Clocked:
    """A prior or an operator that switches a clock to the parts that its functions are.

    parts: by function, as `PRIOR` and `OPERATOR` are. Numbers are those of `whole` to the bit, gradients but
    for the order in which they are added where an argument is used more than once.
    """

    def __init__(self, whole: Any, parts: Mapping[str, tuple[str, Sequence[str]]], clock: Clock) -> None:
        self._whole, self._parts, self._clock = whole, parts, clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._whole, name)
        return partial(self._run, found, *self._parts[name]) if name in self._parts else found

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = self._run(self._whole, *self._parts["__call__"], x)
        return found

    def _run(self, function: Callable[..., Any], part: str, backward: Sequence[str], *given: Any) -> Any:
        """A gradient that reaches what the function gave begins its backward part; arguments end it.

        The function gets views of them, for to the gradients of the given ones others may add.
        """
        before = self._clock.switch(part)
        moving = [place for place, value in enumerate(given) if _moves(value)]
        given = tuple(value.view_as(value) if place in moving else value for place, value in enumerate(given))
        out = function(*given)
        self._clock.switch(before)
        if moving and _moves(out):
            _on_gradient(out, self._clock, backward[moving[0]])
            for place in moving:
                _on_gradient(given[place], self._clock, REST)
        return out


def _moves(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()


def _on_gradient(tensor: Tensor, clock: Clock, part: str) -> None:
    def switch(_: Tensor) -> None:
        clock.switch(part)

    tensor.register_hook(switch)


def processor() -> str:
    """The CPU's name, where Linux tells it, or its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int, rounds: int = 5) -> float:
    """FLOP a second of a product of two square matrices, the fastest of some rounds."""
    left, right = torch.randn(2, side, side, device=device).to(dtype)
    seconds = timed({"product": lambda: left @ right}, rounds + 1, reader(device))["product"]
    return 2 * side**3 / min(seconds[1:])  # the first warms up


def timed(
    variants: Mapping[str, Callable[[], object]], rounds: int, read: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each variant in each round: A, B, A, B, ..., so that a machine's moods meet all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = read()
            run()
            seconds[name].append(read() - start)
    return seconds


@dataclass(frozen=True)
class Ratio:
    """Of seconds that were measured in pairs: the median of the pairs, and the least and most of them."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


def ratio(seconds: Sequence[float], others: Sequence[float]) -> Ratio:
    """seconds / others, pair by pair."""
    each = [one / other for one, other in zip(seconds, others, strict=True)]
    return Ratio(median(each), min(each), max(each))
