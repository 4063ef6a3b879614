"""The built-in networks as settings: ``[task.model]`` by its ``name``.

The shapes, the depth formulas and the numbers of parameters are computed here, without torch.
:mod:`kdecay_search.training.models` builds the networks from the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from kdecay_search.study.base import Settings

MAX_DEPTH = 1202
"""Largest depth of a network: the deepest that the residual networks' authors trained."""
BOTTLENECK_EXPANSION = 4
"""Channels that a bottleneck block puts out, per channel of its 3x3 convolution."""

BlockKind = Literal["basic", "preact-basic", "preact-bottleneck"]
ShortcutOption = Literal["A", "B"]
Depth = Annotated[int, Field(le=MAX_DEPTH)]

LAYERS_PER_STEP: dict[BlockKind, int] = {"basic": 6, "preact-basic": 6, "preact-bottleneck": 9}
"""Layers that three groups of blocks gain when each gets one block more, of two or three
convolutions."""


class BlockShape(NamedTuple):
    """Shape of a residual block."""

    inputs: int
    """Channels that the block takes."""
    outputs: int
    """Channels that the block puts out."""
    stride: int
    """Factor by which the block divides the sides of its images."""

    @property
    def changes(self) -> bool:
        """Whether the block changes the shape, so that its shortcut cannot be the identity."""
        return self.stride != 1 or self.inputs != self.outputs

    @property
    def bottleneck(self) -> int:
        """Channels of the 3x3 convolution of a bottleneck block."""
        return self.outputs // BOTTLENECK_EXPANSION


def block_shapes(stem: int, groups: Sequence[int], per_group: int) -> Iterator[BlockShape]:
    """Shapes of a network's blocks, in order. Each group but the first halves the sides.

    Args:
        stem: Channels of the first convolution.
        groups: Channels that the blocks of each group put out.
        per_group: Blocks in each group.
    """
    inputs = stem
    for group, outputs in enumerate(groups):
        for block in range(per_group):
            yield BlockShape(inputs, outputs, 2 if group and not block else 1)
            inputs = outputs


class ResNetSpec(Settings):
    """Residual networks for small images (arXiv:1512.03385, 4.2; pre-activation: 1603.05027)."""

    name: Literal["resnet"] = "resnet"
    """Tag of this kind of network."""
    block: BlockKind = "basic"
    """Kind of the residual blocks."""
    depth: Depth = 8
    """Layers with weights: 6n + 2, or 9n + 2 with bottleneck blocks."""
    shortcut: ShortcutOption | None = None
    """Shortcut of a block that changes the shape: A pads with zero channels, B is a 1x1
    convolution. None means A, or B with bottleneck blocks."""
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels of the first convolution."""

    @field_validator("depth")
    @classmethod
    def _depth_fits_the_blocks(cls, depth: int, info: ValidationInfo) -> int:
        block = info.data.get("block")
        if block is None:
            return depth
        fitting = [kind for kind, step in LAYERS_PER_STEP.items() if _is_depth(depth, step, 2)]
        hint = f"; {depth} fits block = '{fitting[0]}'" if fitting else ""
        return _check_depth(depth, LAYERS_PER_STEP[block], 2, f"{block} blocks", hint)

    @property
    def shortcut_option(self) -> ShortcutOption:
        """The shortcut that is built; if it is not stated, that of the papers' results."""
        return self.shortcut or ("B" if self.block == "preact-bottleneck" else "A")

    def shapes(self) -> list[BlockShape]:
        """The blocks in order: three groups, 1, 2 and 4 times as wide as the first."""
        first = self.width * (BOTTLENECK_EXPANSION if self.block == "preact-bottleneck" else 1)
        per_group = (self.depth - 2) // LAYERS_PER_STEP[self.block]
        return list(block_shapes(self.width, (first, 2 * first, 4 * first), per_group))

    def parameters(self, classes: int, channels: int = 3) -> int:
        """Number of trainable parameters, for images of a number of classes and channels."""
        shapes = self.shapes()
        last = shapes[-1].outputs
        norm = _norm(self.width if self.block == "basic" else last)
        count = {
            "basic": _basic,
            "preact-basic": _preact_basic,
            "preact-bottleneck": _preact_bottleneck,
        }[self.block]
        blocks = sum(count(shape, self.shortcut_option) for shape in shapes)
        return _conv(channels, self.width, 3) + norm + blocks + _linear(last, classes)


class WideResNetSpec(Settings):
    """Wide residual networks, WRN-depth-widen (arXiv:1605.07146)."""

    name: Literal["wide-resnet"] = "wide-resnet"
    """Tag of this kind of network."""
    depth: Depth
    """Layers with weights: 6n + 4."""
    widen: Annotated[int, Field(ge=1, le=64)]
    """Factor of the width: the groups have 16, 32 and 64 times as many channels."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the values between a block's two convolutions that training sets to zero."""

    @field_validator("depth")
    @classmethod
    def _depth_fits_the_blocks(cls, depth: int) -> int:
        return _check_depth(depth, 6, 4, "a wide ResNet")

    def shapes(self) -> list[BlockShape]:
        """The blocks in order: three groups of 16, 32 and 64 times ``widen`` channels."""
        groups = [width * self.widen for width in (16, 32, 64)]
        return list(block_shapes(16, groups, (self.depth - 4) // 6))

    def parameters(self, classes: int, channels: int = 3) -> int:
        """Number of trainable parameters, for images of a number of classes and channels."""
        shapes = self.shapes()
        last = shapes[-1].outputs
        blocks = sum(_preact_basic(shape, "B") for shape in shapes)
        return _conv(channels, 16, 3) + blocks + _norm(last) + _linear(last, classes)


class DenseNetSpec(Settings):
    """DenseNet-BC-depth-growth (arXiv:1608.06993): three dense blocks of bottleneck layers."""

    name: Literal["densenet-bc"] = "densenet-bc"
    """Tag of this kind of network."""
    depth: Depth
    """Layers with weights: 6n + 4."""
    growth: Annotated[int, Field(ge=1, le=256)]
    """Channels that every layer adds."""
    compression: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the channels that the transitions between the blocks keep."""

    @field_validator("depth")
    @classmethod
    def _depth_fits_the_blocks(cls, depth: int) -> int:
        return _check_depth(depth, 6, 4, "a DenseNet-BC")

    @property
    def stem(self) -> int:
        """Channels of the first convolution."""
        return 2 * self.growth

    @property
    def bottleneck(self) -> int:
        """Channels of a layer's 1x1 convolution."""
        return 4 * self.growth

    @property
    def layers_per_block(self) -> int:
        """Bottleneck layers of each dense block."""
        return (self.depth - 4) // 6

    def compressed(self, channels: int) -> int:
        """Channels after a transition."""
        return max(1, int(channels * self.compression))

    def parameters(self, classes: int, channels: int = 3) -> int:
        """Number of trainable parameters, for images of a number of classes and channels."""
        width, total = self.stem, _conv(channels, self.stem, 3)
        for block in range(3):
            if block:
                kept = self.compressed(width)
                total += _norm(width) + _conv(width, kept, 1)
                width = kept
            for _ in range(self.layers_per_block):
                total += _norm(width) + _conv(width, self.bottleneck, 1)
                total += _norm(self.bottleneck) + _conv(self.bottleneck, self.growth, 3)
                width += self.growth
        return total + _norm(width) + _linear(width, classes)


class ResNet50Spec(Settings):
    """torchvision's ResNet-50 for ImageNet (arXiv:1512.03385; stride in the 3x3 convolution)."""

    name: Literal["resnet50"] = "resnet50"
    """Tag of this kind of network."""

    def parameters(self, classes: int, channels: int = 3) -> int:
        """Number of trainable parameters, for images of a number of classes and channels."""
        inputs, total = 64, _conv(channels, 64, 7) + _norm(64)
        for inner, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
            outputs = BOTTLENECK_EXPANSION * inner
            total += _conv(inputs, outputs, 1) + _norm(outputs)  # the group's one projection
            for _ in range(blocks):
                total += _conv(inputs, inner, 1) + _conv(inner, inner, 3) + 2 * _norm(inner)
                total += _conv(inner, outputs, 1) + _norm(outputs)
                inputs = outputs
        return total + _linear(inputs, classes)


def _resnet_unless_named(table: Any) -> Any:
    """A model's table with the default of ``name``, which tells the kinds of networks apart."""
    return {"name": "resnet"} | table if isinstance(table, dict) else table


ModelSpec = Annotated[
    ResNetSpec | WideResNetSpec | DenseNetSpec | ResNet50Spec,
    Field(discriminator="name"),
    BeforeValidator(_resnet_unless_named),
]


def _is_depth(depth: int, step: int, rest: int) -> bool:
    """Whether depth = step · n + rest for a whole n of 1 or more."""
    return depth > rest and (depth - rest) % step == 0


def _check_depth(depth: int, step: int, rest: int, network: str, hint: str = "") -> int:
    """The depth, if it fits the network. Raises ValueError with the nearest that do."""
    if _is_depth(depth, step, rest):
        return depth
    below = depth - (depth - rest) % step
    near = [d for d in (below, below + step) if _is_depth(d, step, rest) and d <= MAX_DEPTH]
    near = near or [step + rest]
    nearest = f"the nearest {'is' if len(near) == 1 else 'are'} {', '.join(map(str, near))}"
    raise ValueError(f"must be {step}n + {rest} for {network}; {nearest}{hint}")


# Numbers of parameters of layers. Convolutions have no bias: a batch norm follows or precedes them.


def _conv(inputs: int, outputs: int, side: int) -> int:
    return inputs * outputs * side**2


def _norm(channels: int) -> int:
    return 2 * channels


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def _basic(shape: BlockShape, option: ShortcutOption) -> int:
    inputs, outputs, _ = shape
    body = _conv(inputs, outputs, 3) + _conv(outputs, outputs, 3) + 2 * _norm(outputs)
    projection = _projection(shape, option)
    return body + projection + (_norm(outputs) if projection else 0)


def _preact_basic(shape: BlockShape, option: ShortcutOption) -> int:
    inputs, outputs, _ = shape
    body = _norm(inputs) + _conv(inputs, outputs, 3) + _norm(outputs) + _conv(outputs, outputs, 3)
    return body + _projection(shape, option)


def _preact_bottleneck(shape: BlockShape, option: ShortcutOption) -> int:
    inputs, outputs, _ = shape
    inner = shape.bottleneck
    norms = _norm(inputs) + 2 * _norm(inner)
    body = _conv(inputs, inner, 1) + _conv(inner, inner, 3) + _conv(inner, outputs, 1)
    return norms + body + _projection(shape, option)


def _projection(shape: BlockShape, option: ShortcutOption) -> int:
    return _conv(shape.inputs, shape.outputs, 1) if option == "B" and shape.changes else 0
