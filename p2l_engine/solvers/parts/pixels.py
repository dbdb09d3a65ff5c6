"""What solvers over pixels share: their start from noise, the network's label, and the two Tweedie images.

| symbol | code | meaning |
|---|---|---|
| x_t, x_{t-1} | x | image before and after a step |
| eps_t | eps | predicted noise |
| x_0|t | x0 | posterior mean of the clean image (Eq. 14) |
| x'_0|t | u | x_0|t brought near the measurement |
| eta | eta | how much of the noise of a step is drawn anew: 0 DDIM, 1 DDPM |
"""

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from p2l_engine.priors.base import PixelPrior
from p2l_engine.schedule import Step, noise_beside, posterior_mean
from p2l_engine.solvers.base import ImageState, Problem, Sampler, limited


class PixelSampler(Sampler):
    """class_label: for networks that ask for one, from 0."""

    prior: ClassVar[Literal["pixel"]] = "pixel"
    class_label: int | None = Field(default=None, ge=0)

    def start(self, prior: PixelPrior, problem: Problem) -> ImageState:
        return ImageState(problem.first_images())

    def images(self, prior: PixelPrior, problem: Problem, state: ImageState) -> Tensor:
        return state.x

    def predict(self, prior: PixelPrior, x: Tensor, at: Step) -> tuple[Tensor, Tensor]:
        """eps_t and x_0|t of x_t."""
        eps = prior.predict_noise(x, at.t, self.class_label)
        return eps, posterior_mean(x, eps, at.alpha_bar)

    def misfits(self, model: Any) -> list[str]:
        classes, label = model.classes, self.class_label
        if classes is None:
            return [] if label is None else [f"class_label: got {label}; allowed: null, the model takes none"]
        if label is not None and label < classes:
            return []
        got = "none" if label is None else label
        return [f"class_label: got {got}; allowed: 0 to {classes - 1}, the model takes one of {classes}"]


class ClampingSampler(PixelSampler):
    """clamp: whether x_0|t is limited to [-1, 1] and eps_t taken anew from it."""

    clamp: bool = False

    def predict(self, prior: PixelPrior, x: Tensor, at: Step) -> tuple[Tensor, Tensor]:
        eps, x0 = super().predict(prior, x, at)
        if not self.clamp:
            return eps, x0
        x0 = limited(x0)
        return noise_beside(x, x0, at.alpha_bar), x0
