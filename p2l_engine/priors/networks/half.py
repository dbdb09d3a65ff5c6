"""Networks in 16 bits between tensors that are not: state, residuals, texts and gradients in float32.

| what | in |
|---|---|
| weights and activations of the U-Net and the autoencoder | the half type |
| text encoder, text embeddings C, their keys W_k C and values W_v C before they are rounded | float32 |
| gradients within a network | the half type, those of float16 times `FLOAT16_SCALE` |
| gradients in z, x and C | float32 |

Prompt tuning moves C by less than a half type's step. Of a C that was rounded to that type nothing would be
left of the change; keys and values, sums over all of C, are rounded after it, and show it on average.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Module, Parameter

FLOAT16_SCALE = 256.0  # a power of two; see `scale_of`
OF_TEXT = ("attn2.to_k", "attn2.to_v")  # modules of diffusers' U-Net


def scale_of(dtype: torch.dtype) -> float:
    """By what gradients within a network are multiplied, to be exact again once they leave it.

    float16 has no numbers below 6e-8 and few bits below 6e-5. bfloat16 has the range of float32.
    """
    return FLOAT16_SCALE if dtype == torch.float16 else 1.0


def into(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in a network's dtype; the gradient leaves the network here: in x's dtype, without the scale."""
    return x if x.dtype == dtype else _Cast.apply(x, dtype, 1 / scale_of(dtype))


def out_of(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What a network gives, in another dtype; the gradient enters the network here."""
    return x if x.dtype == dtype else _Cast.apply(x, dtype, scale_of(x.dtype))


def convert(unet: Module, device: torch.device, dtype: torch.dtype) -> None:
    """Moves a U-Net in place. In a half type its keys and values of texts are computed from C in float32."""
    exact: list[Any] = []
    if dtype.itemsize < torch.float32.itemsize:
        exact = [module for name, module in unet.named_modules() if name.endswith(OF_TEXT)]
    weights = [module.weight.detach().to(device, torch.float32) for module in exact]
    torch.nn.Module.to(unet, device, dtype)
    for module, weight in zip(exact, weights, strict=True):
        module.weight = Parameter(weight)
        module.register_forward_hook(lambda module, given, found: into(found, dtype))


class _Cast(torch.autograd.Function):
    """factor: of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, factor: float) -> Tensor:
        ctx.dtype, ctx.factor = x.dtype, factor
        return x.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return (gradient.float() * ctx.factor).to(ctx.dtype), None, None
