"""The built-in networks, built from their specifications in :mod:`kdecay_search.study.networks`."""

from __future__ import annotations

from torch import nn

from kdecay_search.study.networks import DenseNetSpec, ModelSpec, ResNetSpec, WideResNetSpec
from kdecay_search.training.models.densenet import DenseNet
from kdecay_search.training.models.resnet import resnet, wide_resnet


def build(model: ModelSpec, classes: int, channels: int) -> nn.Module:
    """Build a network, with weights drawn from torch's global generator.

    Args:
        model: ``[task.model]`` of the study.
        classes: Number of classes.
        channels: Number of channels of an image.

    Returns:
        A network that maps float images (N, channels, H, W) to logits (N, classes).
    """
    if isinstance(model, ResNetSpec):
        return resnet(model, classes, channels)
    if isinstance(model, WideResNetSpec):
        return wide_resnet(model, classes, channels)
    if isinstance(model, DenseNetSpec):
        return DenseNet(model, classes, channels)
    # Imported here because torchvision takes a second to import.
    from kdecay_search.training.models.resnet50 import resnet50  # noqa: PLC0415

    return resnet50(classes, channels)
