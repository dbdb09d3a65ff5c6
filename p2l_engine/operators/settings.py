"""An operator's settings as a value, and how it becomes the operator of a batch of images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from p2l_engine.operators.base import LinearOperator, Shape
from p2l_engine.settings import Settings


@dataclass(frozen=True)
class Data:
    """What an operator may need beside its settings; as in `OperatorSettings.build`."""

    name: str
    generators: Sequence[torch.Generator] | None
    image_shape: Shape | None
    measurement_shape: Shape | None
    masks: Tensor | None
    kernels: Tensor | None

    def need(self, what: str) -> Any:
        """The data of that name. ValueError where it was not given."""
        given = getattr(self, what)
        if given is None or len(given) == 0:
            raise ValueError(f"operator {self.name}: got no {what}; allowed: {what}={_FORMS[what]}")
        return given

    def draw(self, one: Callable[[torch.Generator], Tensor]) -> Tensor:
        """One drawing for each image's generator, stacked."""
        return torch.stack([one(source) for source in self.need("generators")])


_FORMS = {
    "generators": "[...], one torch.Generator an image",
    "image_shape": "(3, height, width)",
    "masks": "a tensor (images, 1, height, width), 1 where observed",
    "kernels": "a tensor (images, 1, height, width), sum 1",
}


class OperatorSettings(Settings, ABC):
    """Which operator, and how: the fields are what an `operator:` block may set.

    An operator writes its fields and `make`, and overrides the properties that are otherwise for it.
    """

    name: str

    @property
    def title(self) -> str:
        """In words, such as "Super resolution ×4"."""
        return self.name.replace("_", " ").capitalize()

    @property
    def column(self) -> str:
        """The column of a preset: the name, or the name and what sets this one apart."""
        return self.name

    @property
    def needs(self) -> frozenset[Literal["mask", "kernel"]]:
        """What every image must bring along."""
        return frozenset()

    @property
    def instead_of_drawn(self) -> str | None:
        """What fits measurements made elsewhere, of which a mask or kernel drawn anew knows nothing.

        None where nothing is drawn.
        """
        return None

    def check(self) -> list[str]:
        """What is wrong on this machine, by running code of the user's where the settings name some."""
        return []

    @abstractmethod
    def make(self, data: Data) -> LinearOperator:
        """The operator of a batch. ValueError where `data` lacks what it takes."""

    def build(
        self,
        *,
        generators: Sequence[torch.Generator] | None = None,
        image_shape: Shape | None = None,
        measurement_shape: Shape | None = None,
        masks: Tensor | None = None,
        kernels: Tensor | None = None,
    ) -> LinearOperator:
        """The operator for a batch of B images.

        generators: one an image, drawing its mask or motion kernel (inpainting random | free_form | box,
        motion_blur). image_shape: (3, H, W); needed for drawn masks and for `linear`; where given, it is
        checked that the operator applies to it. measurement_shape: of y, where the image's is not known.
        masks (B, 1, H, W), 1 = observed: for inpainting with mask given. kernels (B, 1, k, k), sum 1: for
        blur. One mask or kernel (B = 1) serves every image of any batch.

        Raises ValueError for what is missing, and for what does not fit.
        """
        for what, part, given, takers in (
            ("masks", "mask", masks, "inpainting with mask='given'"),
            ("kernels", "kernel", kernels, "blur"),
        ):
            if given is not None and part not in self.needs:
                raise ValueError(f"operator {self.name}: got {what}; allowed: only for {takers}")
        operator = self.make(Data(self.name, generators, image_shape, measurement_shape, masks, kernels))
        if image_shape is not None:
            operator.measurement_shape(image_shape)
        return operator

    def example(self, count: int, image_shape: Shape) -> LinearOperator:
        """The operator for so many images (3, H, W), its mask or kernel made up where they would bring one.

        What a step costs does not depend on it. Raises ValueError as `build` does.
        """
        rows = torch.arange(image_shape[1]) % 2
        return self.build(
            generators=[torch.Generator().manual_seed(number) for number in range(count)],
            image_shape=image_shape,
            masks=rows[:, None].expand(1, 1, *image_shape[1:]) if "mask" in self.needs else None,
            kernels=torch.full((1, 1, 9, 9), 1 / 81) if "kernel" in self.needs else None,
        )
