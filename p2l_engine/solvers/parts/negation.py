"""TReg's adaptive negation (Eq. 49): the null text embedding moved away from what an image shows."""

from pydantic import Field
from torch import Tensor

from p2l_engine.priors.base import LatentPrior
from p2l_engine.priors.image_tower import ImageTower, check_tower, load_tower
from p2l_engine.settings import Settings

EPSILON = 1e-8  # of Adam


class Negation(Settings):
    """iterations: of Adam, afresh at each data step. tower: see `priors/image_tower.py`; tiny is the shipped.

    The tower's vectors are compared with the text encoder's hidden states, as the authors' code compares
    them: their widths have to agree. Stable Diffusion 1.x was trained with openai/clip-vit-large-patch14.
    """

    tower: str = Field(description="tiny, a folder of a CLIPVisionModelWithProjection, or a hub id")
    learning_rate: float = Field(default=1e-3, gt=0)
    iterations: int = Field(default=10, ge=1, le=1000)

    def misfits(self, text_width: int) -> list[str]:
        """Why the tower is none, or none beside text embeddings of a width."""
        return [f"negation.tower: {problem}" for problem in check_tower(self.tower, text_width)]

    def loaded(self, prior: LatentPrior) -> ImageTower:
        """The tower, where and in the precision that the prior computes in."""
        return load_tower(self.tower, prior.device, prior.dtype)


def negate(tower: ImageTower, x: Tensor, null: Tensor, setting: Negation) -> Tensor:
    """The null embedding (B, L, D) after Adam's steps down the mean over tokens of <T(x), null_l>.

    T(x) has length 1, the tokens have not, so it is no cosine. That mean is linear in the embedding: its
    gradient T(x) / L, and with it Adam's step, is the same at every iteration.
    """
    gradient = (tower(x) / null.shape[1])[:, None]
    return null - setting.iterations * setting.learning_rate * gradient / (gradient.abs() + EPSILON)
