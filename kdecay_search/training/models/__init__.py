"""The built-in networks, as :mod:`kdecay_search.study.networks` describes them."""

from __future__ import annotations

from torch import nn

from kdecay_search.study.networks import DenseNetSpec, ModelSpec, ResNetSpec, WideResNetSpec
from kdecay_search.training.models.densenet import DenseNet
from kdecay_search.training.models.resnet import resnet, wide_resnet


def build(model: ModelSpec, classes: int, channels: int) -> nn.Module:
    """The network for images of this many channels, initialised by torch's global generator.

    It takes (N, channels, H, W) float images and gives (N, classes) logits.
    """
    if isinstance(model, ResNetSpec):
        return resnet(model, classes, channels)
    if isinstance(model, WideResNetSpec):
        return wide_resnet(model, classes, channels)
    if isinstance(model, DenseNetSpec):
        return DenseNet(model, classes, channels)
    from kdecay_search.training.models import imagenet  # noqa: PLC0415 - torchvision: 1 s to import

    return imagenet.resnet50(classes, channels)
