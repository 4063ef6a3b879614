"""torchvision's network for ImageNet."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision import models

RGB = 3


class GlobalMean(nn.Module):
    """(N, C, H, W) to (N, C, 1, 1). Adaptive pooling has no deterministic gradient on GPUs."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3), keepdim=True)


def resnet50(classes: int, channels: int) -> nn.Module:
    """ResNet-50, not pretrained, started as torchvision does: He with fan-out, no zeroed norms."""
    model: nn.Module = models.resnet50(weights=None, num_classes=classes)
    model.avgpool = GlobalMean()
    if channels != RGB:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model
