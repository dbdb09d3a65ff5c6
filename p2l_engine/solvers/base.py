"""What a solver is: a frozen value whose fields are the `method:` block, and what it does with a problem.

| symbol | code | meaning |
|---|---|---|
| y, A, n | y, A, sigma | measurement and operator, y = A x + n (Eq. 3); sigma is n's standard deviation |
| C | C | text embeddings |
| T | steps | T to 1, noisiest first |
| alpha_bar_t | alpha_bar | share of signal variance at timestep t |
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.operators.base import ImageShape, LinearOperator
from p2l_engine.operators.discrepancy import Weight, discrepancy_weight
from p2l_engine.priors.base import LatentPrior, Prior
from p2l_engine.priors.networks.small_decoder import ALLOWED, Sketching, check_small_decoder, weight_bytes
from p2l_engine.priors.patched import Patched, Patches
from p2l_engine.schedule import Step
from p2l_engine.seeding import generator, sample_seed
from p2l_engine.settings import Grown, Settings
from p2l_engine.solvers.parts.total_variation import total_variation

LEAST_NOISE = 2 / 255 / 12**0.5  # of pixels that were rounded to 8 bits, in units of [-1, 1]


@dataclass(frozen=True)
class Problem:
    """B images to be restored: every tensor and tuple has one entry an image, in this order.

    y: (B, *measurement). sigma: of n, in units of the [-1, 1] range.
    seeds: of everything that is random; generators: of the numbers that a solver draws as it goes.
    C: (B, L, D), None where the prior reads no text. first: (B, ...), in place of drawn noise to start from.
    """

    A: LinearOperator
    y: Tensor
    sigma: float
    seeds: tuple[int, ...]
    generators: tuple[torch.Generator, ...]
    C: Tensor | None = None
    first: Tensor | None = None

    @staticmethod
    def of(
        A: LinearOperator,
        y: Tensor,
        sigma: float,
        seeds: Sequence[int],
        C: Tensor | None = None,
        first: Tensor | None = None,
    ) -> "Problem":
        """The problem whose solver draws from generators of these seeds."""
        return Problem(A, y, sigma, tuple(seeds), tuple(generator(s, "solver") for s in seeds), C, first)

    @property
    def image_shape(self) -> ImageShape:
        """(3, H, W) of x."""
        return self.A.image_shape(tuple(self.y.shape[1:]))

    @property
    def noise_level(self) -> float:
        """sigma, or that of pixels that were rounded to 8 bits where it is less: no measurement is exact."""
        return max(self.sigma, LEAST_NOISE)

    def first_latents(self, prior: LatentPrior) -> Tensor:
        """z_T (B, C, h, w): `first`, or drawn from each image's seed in float32 on the CPU."""
        _, height, width = self.image_shape
        return self._first((prior.latent_channels, height // prior.factor, width // prior.factor))

    def first_images(self) -> Tensor:
        """x_T (B, 3, H, W): `first`, or drawn as `first_latents` are."""
        return self._first(self.image_shape)

    def _first(self, shape: Sequence[int]) -> Tensor:
        if self.first is not None:
            return self.first.to(self.y)
        drawn = [_normal(generator(seed, "latent"), shape) for seed in self.seeds]
        return torch.stack(drawn).to(self.y)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of `like` (B, ...), the next of each image's own generator."""
        return torch.stack([_normal(source, like.shape[1:]) for source in self.generators]).to(like)

    def proximal(self, x: Tensor, weight: Weight) -> Tensor:
        """argmin_u |y - A u|^2 + lambda |u - x|^2 (Eq. 19) of images x (B, 3, H, W), without a graph.

        By the discrepancy rule lambda is, of each image, what leaves of y - A u as much as the noise is.
        """
        if weight == "discrepancy":
            lam = discrepancy_weight(self.A, self.y, x, self.noise_level)
            return self.A.proximal(self.y, x, lam)
        return self.A.proximal(self.y, x, weight)

    def sample(self, number: int) -> "Problem":
        """The problem for one of several samples, whose numbers come from seeds of its own."""
        return self.of(
            self.A, self.y, self.sigma, [sample_seed(s, number) for s in self.seeds], self.C, self.first
        )

    def select(self, keep: Sequence[int]) -> "Problem":
        """The problem of those images only."""
        return replace(
            self,
            A=self.A.select(keep),
            y=self.y[list(keep)],
            seeds=tuple(self.seeds[i] for i in keep),
            generators=tuple(self.generators[i] for i in keep),
            C=None if self.C is None else self.C[list(keep)],
            first=None if self.first is None else self.first[list(keep)],
        )


@dataclass(frozen=True)
class LatentState:
    """Of a solver over latents. z: (B, C, h, w). C: text embeddings (B, L, D), as they are now."""

    z: Tensor
    C: Tensor


@dataclass(frozen=True)
class ImageState:
    """Of a solver over images. x: (B, 3, H, W)."""

    x: Tensor


class Solver(Settings, ABC):
    """How x is found from y = A x + n. Its fields are what a `method:` block may set.

    Between `start` and `images` a state travels: a frozen dataclass of tensors (B, ...), and of such
    dataclasses. Each image is treated as if it were alone; numbers are drawn by `Problem.noise` only.
    """

    prior: ClassVar[Literal["latent", "pixel"] | None] = None  # None: it needs no model
    name: str

    @classmethod
    def defaults(cls, name: str) -> dict[str, Any]:
        """What the block of that name has where it says nothing, beside the defaults of its fields."""
        return {}

    def schedule(self, prior: Any) -> Sequence[Step]:
        """The steps, noisiest first; none where there is nothing to iterate."""
        return ()

    @abstractmethod
    def start(self, prior: Any, problem: Problem) -> Any:
        """The state before the first step."""

    def step(self, prior: Any, problem: Problem, state: Any, at: Step) -> Any:
        """The state after a step. What it computes on is detached from all that was before."""
        raise NotImplementedError

    @abstractmethod
    def images(self, prior: Any, problem: Problem, state: Any) -> Tensor:
        """(B, 3, H, W), about [-1, 1], after the last step."""

    def finished(self, prior: Any, problem: Problem, state: Any) -> Tensor:
        """The images, with what is done to those of every solver of its family."""
        return self.images(prior, problem, state)

    def asks_of_model(self) -> bool:
        """Whether `misfits` asks anything of a model of the right kind."""
        return False

    def too_small(self, model: Any, size: tuple[int, int]) -> list[str]:
        """Why images of a size (height, width) cannot be restored by it; model: as in `misfits`."""
        return []

    def around(self, prior: Any) -> Any:
        """The prior as the solver asks it."""
        return prior

    def load(self, prior: Any) -> int:
        """Brings what it needs beside the prior into memory, once a process; the bytes of its weights."""
        return 0

    def kind(self, at: Step) -> Hashable:
        """Steps of one kind cost the same."""
        return None

    def brief(self) -> Self:
        """Itself with few turns of the loops within a step: what a step holds at one time is the same."""
        return self

    def misfits(self, model: Any) -> list[str]:
        """What of the settings does not go with a prior, or an architecture, of the right kind."""
        return []

    def doubts(self) -> list[str]:
        """What of the settings can run, but will hardly be meant."""
        return []


class Finish(Grown):
    """A last look at the measurement, after what the prior gave, x.

    by: proximal, the map of Eq. 19, which changes only what A sees; total_variation adds to x the e of least
    |y - A x - A e|^2 / 2 + w TV(e), which goes on into what A does not see.
    weight: lambda of the map, or discrepancy: what leaves of y - A x as much as the noise is.
    """

    later: ClassVar[frozenset[str]] = frozenset({"by"})
    by: Literal["proximal", "total_variation"] = "proximal"
    weight: Weight = Field(default="discrepancy", description="a number above 0, or discrepancy")

    def applied(self, problem: Problem, x: Tensor) -> Tensor:
        """The images that x (B, 3, H, W) become."""
        if self.by == "proximal":
            return problem.proximal(x, self.weight)
        return x + total_variation(problem.A, problem.y - problem.A(x), problem.noise_level)

    def doubts(self, steps: int) -> list[str]:
        """What of the settings is not read."""
        if self.by == "proximal" or self.weight == "discrepancy":
            return []
        return [f"weight is {self.weight}, but by is {self.by}, which takes its own from the noise"]


class Sampler(Solver, Grown):
    """A solver that draws from the posterior, step by step along the schedule of a prior.

    preset: where the settings come from. steps: one to as many as the prior was trained with.
    samples: restorations of each image, from seeds of their own; the result is their mean.
    toward: what the mean is drawn to where they disagree (`parts.shrinkage`); null, the mean itself.
    finish: of each of them; null, as in the paper, leaves what the prior gave.
    """

    later: ClassVar[frozenset[str]] = frozenset({"samples", "toward", "finish"})
    preset: str | None = None
    steps: int = Field(default=1000, ge=1)
    samples: int = Field(default=1, ge=1, le=1000)
    toward: Literal["total_variation"] | None = None
    finish: Finish | None = None

    def schedule(self, prior: Prior) -> Sequence[Step]:
        return prior.schedule(self.steps).steps

    def within(self, timesteps: int) -> int:
        """Of so many timesteps of a prior, from the least noisy on, those that its steps are among."""
        return timesteps

    def finished(self, prior: Prior, problem: Problem, state: Any) -> Tensor:
        x = self.images(prior, problem, state)
        return x if self.finish is None else self.finish.applied(problem, x)

    def doubts(self) -> list[str]:
        found = super().doubts() + doubted(self.steps, finish=self.finish)
        if self.toward is not None and self.samples == 1:
            found.append(f"toward is {self.toward!r}, but one sample is drawn, and no mean made")
        return found


class LatentSampler(Sampler):
    """A sampler over latents.

    patches: how the noise of latents larger than the model's own is predicted. small_decoder: a decoder that
    stands for the model's own in gradients alone.
    """

    prior: ClassVar[Literal["latent"]] = "latent"
    later: ClassVar[frozenset[str]] = Sampler.later | {"patches", "small_decoder"}
    patches: Patches | None = None
    small_decoder: str | None = Field(default=None, min_length=1, description=f"{ALLOWED}, or null")

    def misfits(self, model: Any) -> list[str]:
        found = [] if self.patches is None else self.patches.misfits(model)
        if self.small_decoder is not None:
            problems = check_small_decoder(self.small_decoder, model.latent_channels, model.factor)
            found += [f"small_decoder: {problem}" for problem in problems]
        return found

    def asks_of_model(self) -> bool:
        return self.patches is not None or self.small_decoder is not None

    def too_small(self, model: Any, size: tuple[int, int]) -> list[str]:
        return [] if self.patches is None else self.patches.too_small(model, size)

    def around(self, prior: LatentPrior) -> Any:
        if self.small_decoder is not None:
            prior = Sketching(prior, self.small_decoder)
        return prior if self.patches is None else Patched(prior, self.patches)

    def differentiates(self) -> bool:
        """Whether anything is differentiated through the decoder."""
        return True

    def doubts(self) -> list[str]:
        found = super().doubts() + doubted(self.steps, patches=self.patches)
        if self.small_decoder is not None and not self.differentiates():
            found.append(
                f"small_decoder is {self.small_decoder!r}, but no gradient passes through the decoder"
            )
        return found

    def load(self, prior: LatentPrior) -> int:
        return 0 if self.small_decoder is None else weight_bytes(self.small_decoder, prior)


def doubted(steps: int, **parts: Any) -> list[str]:
    """What the parts of a solver, by name, doubt of themselves in so many steps. None: it is taken out."""
    there = {name: part for name, part in parts.items() if part is not None}
    return [f"{name}.{doubt}" for name, part in there.items() for doubt in part.doubts(steps)]


def limited(x: Tensor) -> Tensor:
    """Images (B, 3, H, W) limited to [-1, 1]; not-a-number where an image holds it, or infinity."""
    sound = x.isfinite().flatten(1).all(dim=1).view(-1, 1, 1, 1)
    return torch.where(sound, x.clamp(-1, 1), torch.nan)


S = TypeVar("S")


def select(state: S, keep: Sequence[int]) -> S:
    """The state of those images only."""
    chosen: dict[str, Any] = {}
    for name, value in _parts(state):
        chosen[name] = value[list(keep)] if isinstance(value, Tensor) else select(value, keep)
    return replace(state, **chosen)  # type: ignore[type-var]


def finite(state: Any) -> Tensor:
    """(B,) bool: whether all numbers of an image's state are finite."""
    parts = [
        value.isfinite().reshape(len(value), -1).all(dim=1) if isinstance(value, Tensor) else finite(value)
        for _, value in _parts(state)
    ]
    return torch.stack(parts).all(dim=0)


def _parts(state: Any) -> list[tuple[str, Any]]:
    parts = [(field.name, getattr(state, field.name)) for field in fields(state)]
    return [(name, value) for name, value in parts if isinstance(value, Tensor) or is_dataclass(value)]


def _normal(source: torch.Generator, shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=source, dtype=torch.float32)
