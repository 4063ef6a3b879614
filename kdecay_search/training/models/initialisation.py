"""Initial weights of the built-in networks."""

from __future__ import annotations

from typing import Literal

from torch import nn


def he_initialisation(model: nn.Module, fan: Literal["fan_in", "fan_out"]) -> None:
    """Apply He initialisation (arXiv:1502.01852), with the fan that each paper's own code uses.

    Convolutions get a normal distribution with variance 2 / (fan · kernel area). The fan is the
    number of output channels in the code of ResNet (github.com/facebook/fb.resnet.torch,
    github.com/KaimingHe/resnet-1k-layers) and DenseNet (github.com/liuzhuang13/DenseNet), and the
    number of input channels in that of wide ResNets (github.com/szagoruyko/wide-residual-networks).

    Batch norm starts as the identity. The last one of a block is *not* zeroed: that is a later
    technique, which the papers' baselines do not have. The classifier keeps torch's default
    weights, and its bias starts at 0.

    Args:
        model: The network, changed in place.
        fan: Which channels the variance counts.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
