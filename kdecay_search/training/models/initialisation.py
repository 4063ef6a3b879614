"""How weights start."""

from __future__ import annotations

from torch import nn


def he_fan_out(model: nn.Module) -> None:
    """He initialisation with fan-out, as in the ResNet papers' code.

    Convolutions: normal, variance 2 / (outputs x kernel area). Batch norm starts as the identity in
    every block; the last one of a block is *not* zeroed, which is a later trick that the paper's
    baselines do not have. The classifier keeps torch's default weights; its bias starts at 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
