"""Residual networks for small images such as CIFAR's.

Each is a 3x3 convolution, three groups of blocks at 1, 1/2 and 1/4 of the image's side, a global
average and a linear classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from kdecay_search.study.networks import BlockShape, ResNetSpec, WideResNetSpec
from kdecay_search.training.models.blocks import (
    BasicBlock,
    PreactBasicBlock,
    PreactBlock,
    PreactBottleneckBlock,
)
from kdecay_search.training.models.initialisation import he_initialisation

PREACT_BLOCKS = {"preact-basic": PreactBasicBlock, "preact-bottleneck": PreactBottleneckBlock}
"""Pre-activation blocks by the names that ``task.model.block`` takes."""


def resnet(spec: ResNetSpec, classes: int, channels: int) -> nn.Module:
    """Build a ResNet, initialised as in its papers' own code (He with fan-out)."""
    if spec.block == "basic":
        model: nn.Module = ResNet(spec, classes, channels)
    else:
        make_block = partial(PREACT_BLOCKS[spec.block], option=spec.shortcut_option)
        model = PreactResNet(spec.shapes(), make_block, classes, channels)
    he_initialisation(model, "fan_out")
    return model


def wide_resnet(spec: WideResNetSpec, classes: int, channels: int) -> nn.Module:
    """Build a wide ResNet (arXiv:1605.07146), initialised as in its own code (He with fan-in).

    It has pre-activation basic blocks, with projections as shortcuts and, if wanted, dropout.
    """
    make_block = partial(PreactBasicBlock, option="B", dropout=spec.dropout)
    model = PreactResNet(spec.shapes(), make_block, classes, channels)
    he_initialisation(model, "fan_in")
    return model


class ResNet(nn.Module):
    """A ResNet of basic blocks, with the ReLU after the sum (arXiv:1512.03385, section 4.2)."""

    def __init__(self, spec: ResNetSpec, classes: int, channels: int) -> None:
        super().__init__()
        shapes = spec.shapes()
        self.stem = nn.Conv2d(channels, spec.width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(spec.width)
        self.blocks = nn.Sequential(*(BasicBlock(shape, spec.shortcut_option) for shape in shapes))
        self.classifier = nn.Linear(shapes[-1].outputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.stem_norm(self.stem(images)), inplace=True)
        return _logits(self.blocks(hidden), self.classifier)


class PreactResNet(nn.Module):
    """A ResNet of pre-activation blocks (arXiv:1603.05027).

    Blocks begin with batch norm and ReLU; another pair of them follows the last block.
    """

    def __init__(
        self,
        shapes: Sequence[BlockShape],
        make_block: Callable[[BlockShape], PreactBlock],
        classes: int,
        channels: int,
    ) -> None:
        super().__init__()
        outputs = shapes[-1].outputs
        self.stem = nn.Conv2d(channels, shapes[0].inputs, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*(make_block(shape) for shape in shapes))
        self.norm = nn.BatchNorm2d(outputs)
        self.classifier = nn.Linear(outputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.blocks(self.stem(images)))
        return _logits(functional.relu(hidden, inplace=True), self.classifier)


def _logits(features: Tensor, classifier: nn.Linear) -> Tensor:
    """Logits (N, classes) of features (N, C, H, W), by their global average."""
    # Not adaptive_avg_pool2d: its gradient has no deterministic version on GPUs.
    logits: Tensor = classifier(features.mean((2, 3)))
    return logits
