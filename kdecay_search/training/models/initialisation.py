"""How weights start."""

from __future__ import annotations

from typing import Literal

from torch import nn


def he(model: nn.Module, fan: Literal["fan_in", "fan_out"]) -> None:
    """He initialisation (arXiv:1502.01852), with the fan of each paper's own code.

    Convolutions: normal, variance 2 / (fan x kernel area), where the fan is the number of output
    channels in the code of ResNet (github.com/facebook/fb.resnet.torch,
    github.com/KaimingHe/resnet-1k-layers) and of DenseNet (github.com/liuzhuang13/DenseNet), and
    of input channels in that of wide ResNets (github.com/szagoruyko/wide-residual-networks).

    Batch norm starts as the identity in every block; the last one of a block is *not* zeroed, which
    is a later trick that the papers' baselines do not have. The classifier keeps torch's default
    weights; its bias starts at 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
