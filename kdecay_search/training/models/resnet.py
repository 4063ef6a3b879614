"""ResNets for small images (He et al., arXiv:1512.03385, section 4.2).

A 3x3 convolution, three groups of n blocks with 1, 2 and 4 times ``width`` channels on 1, 1/2 and
1/4 of the image's side, a global mean and a classifier: 6n + 2 layers with weights.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from kdecay_search.training.models.initialisation import he_fan_out

GROUPS = 3
LAYERS_PER_BLOCK = 2


class ResNet(nn.Module):
    """depth = 6n + 2; (N, channels, H, W) float images to (N, classes) logits."""

    def __init__(self, depth: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        blocks_per_group = (depth - 2) // (GROUPS * LAYERS_PER_BLOCK)
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*_blocks(blocks_per_group, width))
        self.classifier = nn.Linear(width * 2 ** (GROUPS - 1), classes)
        he_fan_out(self)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.stem_norm(self.stem(images)), inplace=True)
        hidden = self.blocks(hidden)
        # Not adaptive_avg_pool2d: its gradient has no deterministic version on GPUs.
        logits: Tensor = self.classifier(hidden.mean((2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(images)), inplace=True)
        hidden = self.norm2(self.conv2(hidden))
        return functional.relu(hidden + self._shortcut(images), inplace=True)

    def _shortcut(self, images: Tensor) -> Tensor:
        """Every stride-th pixel; channels that the block adds are zero, half before, half after."""
        if self.stride == 1 and not self.new_channels:
            return images
        before = self.new_channels // 2
        after = self.new_channels - before
        pixels = images[:, :, :: self.stride, :: self.stride]
        return functional.pad(pixels, (0, 0, 0, 0, before, after))


def _blocks(blocks_per_group: int, width: int) -> Iterator[BasicBlock]:
    inputs = width
    for group in range(GROUPS):
        outputs = width * 2**group
        for block in range(blocks_per_group):
            yield BasicBlock(inputs, outputs, stride=2 if group and not block else 1)
            inputs = outputs
