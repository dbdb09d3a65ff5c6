"""DiffStateGrad (Zirvi, Tolooshams, Anandkumar, ICLR 2025): the gradient on the low-rank subspace of z_t.

| symbol | code | meaning |
|---|---|---|
| Z_t | z | a channel of the latent, (h, w) |
| U S V^T | u, s, vh | its singular value decomposition |
| r, tau | keep, variance | the fewest singular values whose squares hold a share tau of all |
| G | gradient | U_r U_r^T G V_r V_r^T is what is used of it |
"""

import torch
from pydantic import Field
from torch import Tensor

from p2l_engine.schedule import Step
from p2l_engine.settings import Settings


class StateSubspace(Settings):
    """variance: tau. every: at the steps whose number is a multiple of it; at the others G is used whole.

    The rank is each channel's own; the authors' code takes one for all, found over the channels in a row. Of
    latents that are not square, what the shorter side cannot span is left out at any tau.
    """

    variance: float = Field(default=0.99, gt=0, le=1)
    every: int = Field(default=1, ge=1)


def onto_state_subspace(gradient: Tensor, z: Tensor, at: Step, setting: StateSubspace | None) -> Tensor:
    """G (B, C, h, w) on the subspace of each channel of z (B, C, h, w)."""
    if setting is None or at.number % setting.every:
        return gradient
    # The decomposition refuses a whole batch for one number that is not finite, which G is then as well.
    u, s, vh = torch.linalg.svd(torch.nan_to_num(z), full_matrices=False)
    energy = s.square()
    before = energy.cumsum(dim=-1) - energy
    keep = (before < setting.variance * energy.sum(dim=-1, keepdim=True)).to(z)
    within = (u.mT @ gradient @ vh.mT) * keep[..., :, None] * keep[..., None, :]
    return u @ within @ vh
