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
BOTTLENECK_EXPANSION = 4
"""A bottleneck block puts out this many times the channels of its 3x3 convolution."""

BlockKind = Literal["basic", "preact-basic", "preact-bottleneck"]
ShortcutOption = Literal["A", "B"]
Depth = Annotated[int, Field(le=MAX_DEPTH)]

LAYERS_PER_STEP: dict[BlockKind, int] = {"basic": 6, "preact-basic": 6, "preact-bottleneck": 9}
"""Three groups of n blocks with two or three convolutions each."""


class BlockShape(NamedTuple):
    """What a residual block takes and gives: channels, and by how much it shrinks the sides."""

    inputs: int
    outputs: int
    stride: int

    @property
    def changes(self) -> bool:
        """Whether the identity does not fit around the block."""
        return self.stride != 1 or self.inputs != self.outputs

    @property
    def bottleneck(self) -> int:
        """Channels of the 3x3 convolution of a bottleneck block."""
        return self.outputs // BOTTLENECK_EXPANSION


def block_shapes(stem: int, groups: Sequence[int], per_group: int) -> Iterator[BlockShape]:
    """Blocks after a stem with so many channels; each group but the first halves the sides."""
    inputs = stem
    for group, outputs in enumerate(groups):
        for block in range(per_group):
            yield BlockShape(inputs, outputs, 2 if group and not block else 1)
            inputs = outputs


class ResNetSpec(Settings):
    """Residual networks for small images (arXiv:1512.03385, 4.2; pre-activation: 1603.05027)."""

    name: Literal["resnet"] = "resnet"
    block: BlockKind = "basic"
    depth: Depth = 8
    shortcut: ShortcutOption | None = None
    """Where a block changes the shape: A pads with zero channels, B is a 1x1 convolution."""
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
        """Left out, that of the papers' results: A, and B where blocks are bottlenecks."""
        return self.shortcut or ("B" if self.block == "preact-bottleneck" else "A")

    def shapes(self) -> list[BlockShape]:
        """The blocks in order: three groups, 1, 2 and 4 times as wide as the first."""
        first = self.width * (BOTTLENECK_EXPANSION if self.block == "preact-bottleneck" else 1)
        per_group = (self.depth - 2) // LAYERS_PER_STEP[self.block]
        return list(block_shapes(self.width, (first, 2 * first, 4 * first), per_group))

    def parameters(self, classes: int, channels: int = 3) -> int:
        """Numbers that training sets."""
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
    depth: Depth
    widen: Annotated[int, Field(ge=1, le=64)]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the numbers between a block's convolutions that is set to zero in training."""

    @field_validator("depth")
    @classmethod
    def _depth_fits_the_blocks(cls, depth: int) -> int:
        return _check_depth(depth, 6, 4, "a wide ResNet")

    def shapes(self) -> list[BlockShape]:
        """The blocks in order: three groups of 16, 32 and 64 times ``widen`` channels."""
        groups = [width * self.widen for width in (16, 32, 64)]
        return list(block_shapes(16, groups, (self.depth - 4) // 6))

    def parameters(self, classes: int, channels: int = 3) -> int:
        """Numbers that training sets."""
        shapes = self.shapes()
        last = shapes[-1].outputs
        blocks = sum(_preact_basic(shape, "B") for shape in shapes)
        return _conv(channels, 16, 3) + blocks + _norm(last) + _linear(last, classes)


class DenseNetSpec(Settings):
    """DenseNet-BC-depth-growth (arXiv:1608.06993): three dense blocks of bottleneck layers."""

    name: Literal["densenet-bc"] = "densenet-bc"
    depth: Depth
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
        return (self.depth - 4) // 6

    def compressed(self, channels: int) -> int:
        """Channels after a transition."""
        return max(1, int(channels * self.compression))

    def parameters(self, classes: int, channels: int = 3) -> int:
        """Numbers that training sets."""
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

    def parameters(self, classes: int, channels: int = 3) -> int:
        """Numbers that training sets."""
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
    """``name`` may be left out, as any key with a default."""
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
    if _is_depth(depth, step, rest):
        return depth
    below = depth - (depth - rest) % step
    near = [d for d in (below, below + step) if _is_depth(d, step, rest) and d <= MAX_DEPTH]
    near = near or [step + rest]
    nearest = f"the nearest {'is' if len(near) == 1 else 'are'} {', '.join(map(str, near))}"
    raise ValueError(f"must be {step}n + {rest} for {network}; {nearest}{hint}")


# Parameters of layers. Convolutions have no bias: a batch norm follows or went before.


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
