"""Residual blocks: they map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from kdecay_search.study.networks import BlockShape, ShortcutOption


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, with batch norm and ReLU after them (arXiv:1512.03385)."""

    def __init__(self, shape: BlockShape, option: ShortcutOption) -> None:
        super().__init__()
        self.conv1 = _conv3(shape.inputs, shape.outputs, shape.stride)
        self.norm1 = nn.BatchNorm2d(shape.outputs)
        self.conv2 = _conv3(shape.outputs, shape.outputs)
        self.norm2 = nn.BatchNorm2d(shape.outputs)
        self.shortcut = _shortcut(shape, option, norm=True)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(images)), inplace=True)
        hidden = self.norm2(self.conv2(hidden))
        return functional.relu(hidden + self.shortcut(images), inplace=True)


class PreactBlock(nn.Module):
    """A block with batch norm and ReLU before its convolutions (arXiv:1603.05027).

    Where the shape changes, the shortcut starts after the first ReLU, as in that paper's code.
    Elsewhere the shortcut is the identity from the block's input to its output.
    """

    def __init__(self, shape: BlockShape, option: ShortcutOption) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(shape.inputs)
        self.shortcut = _shortcut(shape, option, norm=False)
        self._changes = shape.changes

    def forward(self, images: Tensor) -> Tensor:
        activated = functional.relu(self.norm1(images), inplace=True)
        shortcut: Tensor = self.shortcut(activated) if self._changes else images
        return self._convolutions(activated) + shortcut

    def _convolutions(self, activated: Tensor) -> Tensor:
        raise NotImplementedError


class PreactBasicBlock(PreactBlock):
    """Two 3x3 convolutions, with optional dropout between them (arXiv:1605.07146)."""

    def __init__(self, shape: BlockShape, option: ShortcutOption, dropout: float = 0.0) -> None:
        super().__init__(shape, option)
        self.conv1 = _conv3(shape.inputs, shape.outputs, shape.stride)
        self.norm2 = nn.BatchNorm2d(shape.outputs)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = _conv3(shape.outputs, shape.outputs)

    def _convolutions(self, activated: Tensor) -> Tensor:
        hidden = functional.relu(self.norm2(self.conv1(activated)), inplace=True)
        result: Tensor = self.conv2(self.dropout(hidden))
        return result


class PreactBottleneckBlock(PreactBlock):
    """1x1, 3x3 and 1x1 convolutions; the first has the stride.

    This is resnet-pre-act.lua of github.com/KaimingHe/resnet-1k-layers.
    """

    def __init__(self, shape: BlockShape, option: ShortcutOption) -> None:
        super().__init__(shape, option)
        inner = shape.bottleneck
        self.conv1 = PointwiseConv(shape.inputs, inner, shape.stride)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = _conv3(inner, inner)
        self.norm3 = nn.BatchNorm2d(inner)
        self.conv3 = PointwiseConv(inner, shape.outputs)

    def _convolutions(self, activated: Tensor) -> Tensor:
        hidden = functional.relu(self.norm2(self.conv1(activated)), inplace=True)
        hidden = functional.relu(self.norm3(self.conv2(hidden)), inplace=True)
        result: Tensor = self.conv3(hidden)
        return result


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution with a stride.

    The pixels are selected before the convolution, because oneDNN's strided version writes past
    its buffer in the backward pass if there are fewer input channels than floats in a register
    (oneDNN issue 6035).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self._step = stride

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, :, :: self._step, :: self._step])


class PaddedShortcut(nn.Module):
    """Shortcut option A of arXiv:1512.03385: no parameters.

    Takes every stride-th pixel and adds channels of zeros, half of them before, half after.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.stride = shape.stride
        self.before = (shape.outputs - shape.inputs) // 2
        self.after = shape.outputs - shape.inputs - self.before

    def forward(self, images: Tensor) -> Tensor:
        pixels = images[:, :, :: self.stride, :: self.stride]
        return functional.pad(pixels, (0, 0, 0, 0, self.before, self.after))


def _shortcut(shape: BlockShape, option: ShortcutOption, norm: bool) -> nn.Module:
    """The identity where the shape stays the same, else option A or B (a projection)."""
    if not shape.changes:
        return nn.Identity()
    if option == "A":
        return PaddedShortcut(shape)
    projection = PointwiseConv(shape.inputs, shape.outputs, shape.stride)
    return nn.Sequential(projection, nn.BatchNorm2d(shape.outputs)) if norm else projection


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
