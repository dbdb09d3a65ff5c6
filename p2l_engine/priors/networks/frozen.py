"""Gradients through frozen networks that keep half as much: to their inputs alone, none to their weights.

| part | keeps, in torch | here |
|---|---|---|
| convolution | input, for the gradient in its weights | the input's shape |
| silu(norm(x)) | x, norm(x) | x |

The backward pass computes norm(x) again. Kernels are torch's own: on CPUs the numbers are those of the plain
networks to the bit, gradients where three or more are added to within rounding. Tensors below `WORTH` go the
plain way, whose calls cost less.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Conv2d, GroupNorm, Module, SiLU
from torch.nn import functional as F

WORTH = 2**20  # numbers; at a quarter of it calls in Python are a tenth of a small network's time on a CPU


def keep_less(network: Module) -> None:
    """Changes a network of diffusers in place. Its weights must be frozen: they get no gradient any more."""
    module: Any
    for module in network.modules():
        if type(module) is Conv2d and module.padding_mode == "zeros":
            vars(module)["forward"] = partial(_convolved, module)
        elif type(module).__name__ == "ResnetBlock2D" and module.time_embedding_norm != "scale_shift":
            _fuse(module.nonlinearity, module.norm1, module.norm2)
        elif hasattr(module, "conv_norm_out"):  # the end of a U-Net, an encoder, a decoder
            _fuse(module.conv_act, module.conv_norm_out)


def _fuse(activation: Any, *norms: Any) -> None:
    """The norms compute the activation too, which leaves what they give as it is."""
    if type(activation) is SiLU and all(type(norm) is GroupNorm for norm in norms):
        vars(activation)["forward"] = _unless_normed
        for norm in norms:
            vars(norm)["forward"] = partial(_normed, norm)


def _unless_normed(x: Tensor) -> Tensor:
    """silu of time embeddings, which a block gives the same activation as its images after their norms."""
    return x if x.ndim == 4 else F.silu(x)


def _convolved(module: Any, x: Tensor) -> Tensor:
    settings = module.stride, module.padding, module.dilation, module.groups
    if x.numel() < WORTH:
        return F.conv2d(x, module.weight, module.bias, *settings)
    found: Tensor = _Convolution.apply(x, module.weight, module.bias, *settings)
    return found


def _normed(module: GroupNorm, x: Tensor) -> Tensor:
    if x.numel() < WORTH:
        return F.silu(F.group_norm(x, module.num_groups, module.weight, module.bias, module.eps))
    found: Tensor = _SiluOfNorm.apply(x, module.weight, module.bias, module.num_groups, module.eps)
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        ctx.weight, ctx.shape, ctx.settings = weight, x.shape, settings
        return F.conv2d(x, weight, bias, *settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        stride, padding, dilation, groups = ctx.settings
        # Nothing of the input is read but its shape; one that is expanded would be copied.
        like = gradient if gradient.shape == ctx.shape else gradient.new_empty(ctx.shape)
        found, _, _ = torch.ops.aten.convolution_backward(
            gradient,
            like,
            ctx.weight,
            None,
            stride,
            padding,
            dilation,
            False,
            (0, 0),
            groups,
            (True, False, False),
        )
        return found, *[None] * 6


class _SiluOfNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.settings = weight, bias, groups, eps
        return F.silu(F.group_norm(x, groups, weight, bias, eps), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        weight, bias, groups, eps = ctx.settings
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            normed = F.group_norm(x, groups, weight, bias, eps)
        gradient = torch.ops.aten.silu_backward(gradient, normed.detach())
        return *torch.autograd.grad(normed, x, gradient), *[None] * 4
