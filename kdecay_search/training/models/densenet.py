"""DenseNet-BC for small images (Huang et al., arXiv:1608.06993)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdecay_search.study.networks import DenseNetSpec
from kdecay_search.training.models.initialisation import he_initialisation

BLOCKS = 3
"""Number of dense blocks."""


class DenseNet(nn.Module):
    """Three dense blocks, at 1, 1/2 and 1/4 of the image's side.

    Every layer of a block gets the channels of all layers before it.
    """

    def __init__(self, spec: DenseNetSpec, classes: int, channels: int) -> None:
        super().__init__()
        layers = list(_layers(spec))
        outputs = layers[-1].outputs
        self.stem = nn.Conv2d(channels, spec.stem, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(outputs)
        self.classifier = nn.Linear(outputs, classes)
        he_initialisation(self, "fan_out")

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.norm(self.blocks(self.stem(images))), inplace=True)
        logits: Tensor = self.classifier(hidden.mean((2, 3)))
        return logits


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution with batch norm and ReLU before each.

    Its output is its input with ``growth`` more channels.
    """

    def __init__(self, inputs: int, bottleneck: int, growth: int) -> None:
        super().__init__()
        self.outputs = inputs + growth
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, bottleneck, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck)
        self.conv2 = nn.Conv2d(bottleneck, growth, 3, padding=1, bias=False)
        self.concatenation = Concatenation()

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv1(functional.relu(self.norm1(images), inplace=True))
        hidden = self.conv2(functional.relu(self.norm2(hidden), inplace=True))
        result: Tensor = self.concatenation(images, hidden)
        return result


class Concatenation(nn.Module):
    """The channels of several tensors, (N, channels, H, W) each, one after the other."""

    def forward(self, *images: Tensor) -> Tensor:
        return torch.cat(images, 1)


class Transition(nn.Module):
    """Between two blocks: a 1x1 convolution to fewer channels, and the average of 2x2 pixels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(functional.relu(self.norm(images), inplace=True))
        return functional.avg_pool2d(hidden, 2)


def _layers(spec: DenseNetSpec) -> Iterator[DenseLayer | Transition]:
    """All layers between the stem and the last batch norm, in order."""
    width = spec.stem
    for block in range(BLOCKS):
        if block:
            yield Transition(width, spec.compressed(width))
            width = spec.compressed(width)
        for _ in range(spec.layers_per_block):
            yield DenseLayer(width, spec.bottleneck, spec.growth)
            width += spec.growth
