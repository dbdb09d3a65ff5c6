"""The noise schedule: what a model was trained with, which timesteps are visited, and the two step formulas.

| symbol | here | meaning |
|---|---|---|
| alpha_bar_t | `alpha_bar` | share of signal variance left at timestep t, in (0, 1] |
| alpha_bar_{t-1} | `alpha_bar_prev` | the same at the next visited, less noisy timestep |
| z_0|t | `posterior_mean` | E[z_0 | z_t], Tweedie's formula, Eq. 14 |
| DDIM(z_t) | `ddim_step` | deterministic step from t to t-1, Eq. 15 |
| eta beta~_{t-1} | `ddim_deviation` | standard deviation of what a step with eta draws anew, Eq. 54 |
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# One family: they share the discrete variance-preserving forward process and differ in their solver.
FORWARD_PROCESS_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
# Those whose timesteps are spaced "leading" where their configuration does not say, of others "linspace".
LEADING = ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "PNDMScheduler")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")

# A schedule rescaled to zero terminal SNR ends at alpha_bar = 0, where Eq. 14 divides by zero.
SMALLEST_ALPHA_BAR = 2.0**-24


@dataclass(frozen=True)
class ForwardProcess:
    """How a model was trained: everything that a scheduler_config.json says about noise.

    alphas_cumprod: (N,) float64, alpha_bar of every training timestep, decreasing.
    prediction_type: what the network returns, "epsilon" or "v_prediction".
    set_alpha_to_one: alpha_bar after the last step is 1 if true, else alphas_cumprod[0].
    steps_offset, spacing: see `make_schedule`.
    """

    alphas_cumprod: Tensor
    prediction_type: str
    set_alpha_to_one: bool
    steps_offset: int
    spacing: str


@dataclass(frozen=True)
class Step:
    """One step of a solver. number: T to 1. t: the training timestep; alpha_bar: there, and after the step.

    A solver that follows no schedule of noise leaves the three as they are for an image without any.
    """

    number: int
    t: int = 0
    alpha_bar: float = 1.0
    alpha_bar_prev: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """The T visited timesteps, noisiest first; row i belongs to step T - i.

    timesteps: (T,) int64, strictly decreasing, within 0 .. N - 1.
    alpha_bar, alpha_bar_prev: (T,) float64, before and after each step; row i's alpha_bar_prev is row i + 1's
    alpha_bar, and the last alpha_bar_prev is the model's final alpha_bar.
    """

    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its rows, from step T to step 1."""
        rows = zip(
            self.timesteps.tolist(), self.alpha_bar.tolist(), self.alpha_bar_prev.tolist(), strict=True
        )
        return tuple(Step(len(self.timesteps) - row, *values) for row, values in enumerate(rows))


def read_forward_process(config: Mapping[str, Any]) -> ForwardProcess:
    """Reads a diffusers scheduler configuration (the content of scheduler_config.json).

    Raises ValueError naming the setting when it is missing or not one of those known here.
    """
    scheduler = _one_of(config, "_class_name", FORWARD_PROCESS_SCHEDULERS)
    # PNDMScheduler is the only one of them that ends at alphas_cumprod[0] unless told otherwise.
    ends_at_one = scheduler != "PNDMScheduler"
    spacing = "leading" if scheduler in LEADING else "linspace"
    return ForwardProcess(
        alphas_cumprod=_alphas_cumprod(config),
        prediction_type=_one_of(config, "prediction_type", PREDICTION_TYPES, default="epsilon"),
        set_alpha_to_one=bool(config.get("set_alpha_to_one", ends_at_one)),
        steps_offset=int(config.get("steps_offset", 0)),
        spacing=_one_of(config, "timestep_spacing", SPACINGS, default=spacing),
    )


def make_schedule(process: ForwardProcess, steps: int, until: float = 1.0) -> Schedule:
    """Chooses `steps` of the N training timesteps, spaced as the process says.

    until: the share of the timesteps, from the least noisy on, that there are to choose from; N is theirs.

    leading: i * (N // steps) + offset, where the offset is `steps_offset`, made smaller where the first
    timestep would otherwise pass N - 1. With N = 1000 and steps_offset = 1: 50 steps visit 981 ... 1, and
    1000 steps 999 ... 0 (not 1000 ... 1, which lies outside the table).
    trailing: round(N - i * N / steps) - 1, so that the first is always N - 1; no offset.
    linspace: `steps` points evenly apart from 0 to N - 1, rounded; no offset.

    Raises ValueError when `steps` is not an integer in 1 .. N, or `spacing` is unknown.
    """
    available = timesteps_until(until, len(process.alphas_cumprod))
    alphas_cumprod = process.alphas_cumprod[:available]
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= available:
        share = "" if until == 1 else f"{until} of "
        raise ValueError(
            f"steps: got {steps!r}, allowed is an integer from 1 to {available}, "
            f"{share}the number of timesteps the model was trained with"
        )
    timesteps = _space(available, steps, process.steps_offset, process.spacing)
    alpha_bar = alphas_cumprod.double()[timesteps]
    final = torch.ones(1, dtype=torch.float64) if process.set_alpha_to_one else alphas_cumprod[:1].double()
    return Schedule(timesteps, alpha_bar, torch.cat([alpha_bar[1:], final]))


def timesteps_until(share: float, timesteps: int) -> int:
    """How many there are up to a share of them; one at least."""
    return max(1, round(share * timesteps))


def posterior_mean(z_t: Tensor, eps: Tensor, alpha_bar: float | Tensor) -> Tensor:
    """z_0|t = (z_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar), Eq. 14. z_t, eps: any equal shape."""
    return (z_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5


def ddim_step(z0: Tensor, eps: Tensor, alpha_bar_prev: float | Tensor) -> Tensor:
    """z_{t-1} = sqrt(alpha_bar_prev) z_0|t + sqrt(1 - alpha_bar_prev) eps, Eq. 15. Any equal shapes."""
    return alpha_bar_prev**0.5 * z0 + (1 - alpha_bar_prev) ** 0.5 * eps


def noise_beside(x_t: Tensor, x0: Tensor, alpha_bar: float) -> Tensor:
    """The noise in x_t where x0 is its clean image: Eq. 14 the other way round."""
    return (x_t - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5


def ddim_deviation(at: Step, eta: float) -> float:
    """eta sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) sqrt(1 - alpha_bar / alpha_bar_prev): 1 is DDPM's."""
    shrunk = (1 - at.alpha_bar_prev) / (1 - at.alpha_bar)
    return float(eta * (shrunk * (1 - at.alpha_bar / at.alpha_bar_prev)) ** 0.5)


def stochastic_step(x0: Tensor, eps: Tensor, fresh: Tensor, at: Step, deviation: float) -> Tensor:
    """x_{t-1}, Eq. 54: of its noise, of variance 1 - alpha_bar_prev, `fresh` has the standard deviation.

    x0, eps and fresh, standard normal: any equal shape.
    """
    kept = max(1 - at.alpha_bar_prev - deviation**2, 0.0) ** 0.5
    return at.alpha_bar_prev**0.5 * x0 + kept * eps + deviation * fresh


def noise_of(process: ForwardProcess, prediction: Tensor, z_t: Tensor, t: int) -> Tensor:
    """The noise in z_t at training timestep t, of what a network predicted of it.

    A network that predicts v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z_0 is converted by
    eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) z_t.
    """
    if process.prediction_type == "epsilon":
        return prediction
    alpha_bar = process.alphas_cumprod[t].item()
    return alpha_bar**0.5 * prediction + (1 - alpha_bar) ** 0.5 * z_t


def _space(available: int, steps: int, steps_offset: int, spacing: str) -> Tensor:
    if spacing == "leading":
        ascending = torch.arange(steps) * (available // steps)
        return ascending.flip(0) + min(steps_offset, available - 1 - int(ascending[-1]))
    index = torch.arange(steps, dtype=torch.float64)
    if spacing == "trailing":
        return (available - index * available / steps).round().long() - 1
    if spacing == "linspace":
        return (index * (available - 1) / max(steps - 1, 1)).round().long().flip(0)
    raise ValueError(f"spacing: got {spacing!r}, allowed: {', '.join(SPACINGS)}")


def _alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    alphas_cumprod = (1 - _betas(config)).cumprod(0)
    if config.get("rescale_betas_zero_snr"):
        root = alphas_cumprod.sqrt()
        alphas_cumprod = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return alphas_cumprod.clamp_min(SMALLEST_ALPHA_BAR)


def _betas(config: Mapping[str, Any]) -> Tensor:
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    schedule = _one_of(config, "beta_schedule", BETA_SCHEDULES)
    count = int(_required(config, "num_train_timesteps"))
    if schedule == "squaredcos_cap_v2":
        edge = torch.arange(count + 1, dtype=torch.float64) / count
        cosine = torch.cos((edge + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - cosine[1:] / cosine[:-1]).clamp_max(0.999)
    power = 2 if schedule == "scaled_linear" else 1
    first, last = (float(_required(config, name)) ** (1 / power) for name in ("beta_start", "beta_end"))
    return torch.linspace(first, last, count, dtype=torch.float64) ** power


def _required(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        raise ValueError(f"scheduler configuration: {name} is missing")
    return config[name]


def _one_of(
    config: Mapping[str, Any], name: str, allowed: tuple[str, ...], default: str | None = None
) -> str:
    value = config.get(name, default)
    if value not in allowed:
        raise ValueError(f"scheduler configuration: {name} is {value!r}, allowed: {', '.join(allowed)}")
    return str(value)
