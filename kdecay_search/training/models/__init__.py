"""The built-in networks, by the name that a study file uses."""

from __future__ import annotations

from torch import nn

from kdecay_search.spec import ModelSpec
from kdecay_search.training.models.resnet import ResNet


def build(model: ModelSpec, classes: int, channels: int) -> nn.Module:
    """The network for images of this many channels, initialised by torch's global generator."""
    return _BUILDERS[model.name](model, classes, channels)


def _resnet(model: ModelSpec, classes: int, channels: int) -> nn.Module:
    return ResNet(model.depth, model.width, classes, channels)


_BUILDERS = {"resnet": _resnet}
