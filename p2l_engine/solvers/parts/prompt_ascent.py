"""LATINO-PRO's prompt optimisation: the text embedding moved up the likelihood of restored latents.

| symbol | code | meaning |
|---|---|---|
| z_t' | z_next | restored latent at the next noise level a' (alpha_bar_prev), a constant |
| z_0|t(C) | z0 | posterior mean of the latent before, which hangs on C through the network |
| C, C_0 | C, first | text embedding, and as it was at the start |

By Fisher's identity the gradient of log p(y | C) is the mean of that of log p(z | C) over restorations z.
Each step draws one, with log p(z_t' | C) = -|z_t' - a'^1/2 z_0|t(C)|^2 / (2 (1 - a')).
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from p2l_engine.settings import Settings

USUAL_FIXED = 4  # tokens, fewer than any model reads
DECAY, FROM, LEAST = 0.9, 10, 0.001  # of the step size: from which round on, and its least share


class PromptAscent(Settings):
    """rounds: restorations of `steps` steps that come before the result's, each from the last one's, noised.

    step_size: of what the directions of all steps so far sum to, at the end of each round. radius: how far an
    embedding's token may go. fixed_tokens: the first of a prompt stay: its start and "a photo of".
    """

    rounds: int = Field(default=15, ge=1, le=1000)
    steps: int = Field(default=4, ge=2)
    step_size: float = Field(default=0.08, gt=0)
    radius: float = Field(default=15.0, gt=0)
    fixed_tokens: int = Field(default=USUAL_FIXED, ge=0)


def direction(z_next: Tensor, z0: Tensor, C: Tensor, alpha_bar_prev: float, setting: PromptAscent) -> Tensor:
    """The gradient of log p(z_t' | C) in C (B, L, D), each token's of length 1; 0 for those that stay."""
    distance = (z_next - alpha_bar_prev**0.5 * z0).square().sum()
    (gradient,) = torch.autograd.grad(-distance / (2 * (1 - alpha_bar_prev)), C)
    gradient = F.normalize(gradient, dim=-1)
    gradient[:, : setting.fixed_tokens] = 0
    return gradient


def ascend(C: Tensor, first: Tensor, directions: Tensor, done: int, setting: PromptAscent) -> Tensor:
    """C (B, L, D) after a round, `done` rounds being done before it. directions: the sum over all so far."""
    share = max(DECAY ** max(0, done - FROM), LEAST)
    moved = C + setting.step_size * share * directions - first
    length = torch.linalg.vector_norm(moved, dim=-1, keepdim=True)
    return first + moved * (setting.radius / length.clamp_min(setting.radius))
