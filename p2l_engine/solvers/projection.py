"""Projection onto the range of the encoder (Sec. 3.3)."""

import torch
from torch import Tensor

from p2l_engine.methods import Projection
from p2l_engine.operators import LinearOperator
from p2l_engine.priors.latent import LatentDiffusion


@torch.no_grad()
def project(model: LatentDiffusion, A: LinearOperator, y: Tensor, x0: Tensor, setting: Projection) -> Tensor:
    """E(Gamma(x0)), Eq. 20, of x0 = D(z0) (B, 3, H, W).

    Gamma is the proximal map of Eq. 19, the gluing of Table 4, or the identity.
    """
    match setting.onto:
        case "proximal":
            x0 = A.proximal(y, x0, setting.weight)
        case "gluing":
            x0 = A.glue(y, x0)
    return model.encode(x0)
