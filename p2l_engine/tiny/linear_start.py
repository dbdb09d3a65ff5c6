"""Start an auto-encoder as a linear map: minutes instead of hours until it keeps what a linear map can keep.

An AutoencoderKL whose residual branches are nought is linear but for the group norm and the SiLU before the
last convolution of its encoder and of its decoder. These become linear on chosen features x when x and -x
stand in a group beside two large constants K and -K: the group's mean is then nought and its deviation that
of the constants, and silu(x) - silu(-x) = x. So the linear map is trained first, alone, and the whole network
starts from it.
"""

from typing import Literal

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

CONSTANT = 32.0  # far above the features, of about 1


def encode_linearly(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Images (B, 3, H, W) to latents by the convolutions of the encoder's skip connections alone."""
    return _path(vae.encoder, "down", x)[:, : vae.config.latent_channels]


def decode_linearly(vae: AutoencoderKL, z: Tensor) -> Tensor:
    """Latents to images (B, 3, H, W) by the convolutions of the decoder's skip connections alone."""
    return _path(vae.decoder, "up", z)[:, : vae.config.out_channels]


@torch.no_grad()
def start_from_linear_map(vae: AutoencoderKL) -> None:
    """Set the parameters so that the whole network is what its linear map has become."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    channels = vae.config.latent_channels
    for convolution in (vae.quant_conv, vae.post_quant_conv):
        convolution.weight[:channels] = torch.eye(channels, convolution.in_channels)[:, :, None, None]
        convolution.bias[:channels] = 0
    encoder, decoder = vae.encoder, vae.decoder
    _pass_linearly(encoder.down_blocks[-1].resnets[0], encoder.conv_norm_out, encoder.conv_out, channels)
    _pass_linearly(
        decoder.up_blocks[-1].resnets[0], decoder.conv_norm_out, decoder.conv_out, vae.config.out_channels
    )


def _path(half: Encoder | Decoder, way: Literal["down", "up"], x: Tensor) -> Tensor:
    h: Tensor = half.conv_in(x)
    for block in getattr(half, f"{way}_blocks"):
        h = _skip(block.resnets[0], h)
        for sampler in getattr(block, f"{way}samplers") or ():
            h = sampler(h)
    return h


def _skip(resnet: ResnetBlock2D, h: Tensor) -> Tensor:
    return h if resnet.conv_shortcut is None else resnet.conv_shortcut(h)


def _pass_linearly(source: ResnetBlock2D, norm: nn.GroupNorm, last: nn.Conv2d, count: int) -> None:
    """Make ``last(silu(norm(h)))`` the first ``count`` features that ``source`` writes to h by its skip."""
    write = source.conv_shortcut
    weight, bias = write.weight[:count].clone(), write.bias[:count].clone()
    size = norm.num_channels // norm.num_groups
    room = size // 2 - 1  # pairs in a group, beside the two constants
    for parameter in last.parameters():
        parameter.zero_()
    centre = last.kernel_size[0] // 2
    for group, first in enumerate(range(0, count, room)):
        features = torch.arange(first, min(first + room, count))
        start, n = group * size, len(features)
        positive, negative, constants = (
            slice(start, start + n),
            slice(start + n, start + 2 * n),
            slice(start + size - 2, start + size),
        )
        write.weight[positive], write.bias[positive] = weight[features], bias[features]
        write.weight[negative], write.bias[negative] = -weight[features], -bias[features]
        write.weight[constants] = 0
        write.bias[constants] = torch.tensor([CONSTANT, -CONSTANT])
        norm.weight[start : start + 2 * n] = CONSTANT * (2 / size) ** 0.5
        last.weight[features, torch.arange(start, start + n), centre, centre] = 1
        last.weight[features, torch.arange(start + n, start + 2 * n), centre, centre] = -1
