"""ResNet-50 for ImageNet, from torchvision."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision import models

RGB = 3


class GlobalMean(nn.Module):
    """Global average pooling with a deterministic gradient on GPUs, unlike adaptive pooling."""

    def forward(self, images: Tensor) -> Tensor:
        """Average (N, C, H, W) over height and width to (N, C, 1, 1)."""
        return images.mean((2, 3), keepdim=True)


def resnet50(classes: int, channels: int) -> nn.Module:
    """Build ResNet-50 (arXiv:1512.03385), not pretrained.

    It is initialised as torchvision does: He with fan-out, and no batch norm that starts at zero.

    Args:
        classes: Number of classes.
        channels: Number of channels of an image; the first convolution is replaced unless it is 3.
    """
    model: nn.Module = models.resnet50(weights=None, num_classes=classes)
    model.avgpool = GlobalMean()
    if channels != RGB:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model
