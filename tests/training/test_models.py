from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kdecay_search.study.networks import (
    BlockShape,
    DenseNetSpec,
    ModelSpec,
    ResNet50Spec,
    ResNetSpec,
    WideResNetSpec,
)
from kdecay_search.study.paper_networks import CLASSES, PAPER_NETWORKS, PaperNetwork
from kdecay_search.training.models import build
from kdecay_search.training.models.blocks import BasicBlock, PointwiseConv, PreactBasicBlock
from kdecay_search.training.seeding import forked_rng
from kdecay_search.training.trainer import train

SMALL: list[ModelSpec] = [
    ResNetSpec(width=4),
    ResNetSpec(width=4, shortcut="B"),
    ResNetSpec(width=4, block="preact-basic"),
    ResNetSpec(width=4, block="preact-basic", shortcut="B"),
    ResNetSpec(width=4, depth=11, block="preact-bottleneck"),
    ResNetSpec(width=4, depth=11, block="preact-bottleneck", shortcut="A"),
    WideResNetSpec(depth=10, widen=1),
    WideResNetSpec(depth=16, widen=2, dropout=0.3),
    DenseNetSpec(depth=16, growth=3),
    DenseNetSpec(depth=10, growth=4, compression=0.3),
]


def title(spec: ModelSpec) -> str:
    return "-".join(str(value) for value in spec.model_dump().values() if value is not None)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(spec: ModelSpec, classes: int, channels: int = 3) -> nn.Module:
    """The network without any numbers: as fast for 36 million parameters as for 300."""
    with torch.device("meta"):
        return build(spec, classes, channels)


def seeded(spec: ModelSpec, channels: int = 3, seed: int = 0) -> nn.Module:
    with forked_rng("model", seed, torch.device("cpu")):
        return build(spec, classes=10, channels=channels)


@pytest.mark.parametrize("network", PAPER_NETWORKS, ids=lambda n: title(n.spec))
def test_the_papers_networks_have_the_counted_parameters(
    network: PaperNetwork,
) -> None:
    for data, counted in network.parameters.items():
        assert parameters(on_meta(network.spec, CLASSES[data])) == counted


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spec", [*SMALL, ResNet50Spec()], ids=title)
def test_any_network_has_the_counted_parameters(spec: ModelSpec, channels: int) -> None:
    assert parameters(on_meta(spec, 7, channels)) == spec.parameters(7, channels)


@pytest.mark.parametrize("spec", SMALL, ids=title)
def test_depth_counts_the_layers_with_weights(spec: ModelSpec) -> None:
    """A wide ResNet's depth also counts three projections, whether it has them or not."""
    model = on_meta(spec, classes=10)
    shortcuts = {m for n, part in model.named_modules() if "shortcut" in n for m in part.modules()}
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert not isinstance(spec, ResNet50Spec)
    projections = 3 - 1 if isinstance(spec, WideResNetSpec) else 0
    assert len([layer for layer in layers if layer not in shortcuts]) == spec.depth - projections


@pytest.mark.parametrize("spec", SMALL, ids=title)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (3, 7), (3, 4)])
def test_images_of_any_size_become_one_row_of_logits_each(
    spec: ModelSpec, channels: int, side: int
) -> None:
    logits = build(spec, 7, channels)(torch.randn(5, channels, side, side))
    assert logits.shape == (5, 7)
    logits.square().sum().backward()


def test_the_network_for_imagenet_takes_small_grey_images_too() -> None:
    with forked_rng("model", 0, torch.device("cpu")):
        model = build(ResNet50Spec(), 7, 1)
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("spec", SMALL, ids=title)
def test_every_weight_takes_part(spec: ModelSpec) -> None:
    model = seeded(spec)
    nn.functional.cross_entropy(model(torch.randn(6, 3, 8, 8)), torch.arange(6)).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("spec", SMALL, ids=title)
def test_a_network_trains_on_digits(spec: ModelSpec, recorder: Callable[..., Any]) -> None:
    run = recorder(epochs=1, batch_size=20, model=spec.model_dump())
    train(run)
    again = recorder(epochs=1, batch_size=20, model=spec.model_dump())
    train(again)
    assert run.epochs == again.epochs
    assert run.epochs[0].training_loss < 2.5


def test_option_a_drops_every_other_pixel_and_adds_zero_channels() -> None:
    block = BasicBlock(BlockShape(2, 4, 2), "A")
    nn.init.zeros_(block.norm2.weight)
    images = torch.rand(1, 2, 4, 4)
    output = block(images)
    assert torch.equal(output[:, 1:3], images[:, :, ::2, ::2])
    assert not output[:, [0, 3]].any()


@pytest.mark.parametrize("option", ["A", "B"])
def test_the_shortcut_of_a_preactivation_block_is_the_identity(option: Any) -> None:
    """Negative pixels too: nothing but the sum lies on the way from block to block."""
    block = PreactBasicBlock(BlockShape(4, 4, 1), option)
    nn.init.zeros_(block.conv2.weight)
    images = torch.randn(2, 4, 4, 4)
    assert torch.equal(block(images), images)


def test_a_shortcut_that_changes_the_shape_starts_after_the_relu() -> None:
    block = PreactBasicBlock(BlockShape(2, 4, 2), "A")
    nn.init.zeros_(block.conv2.weight)
    images = torch.randn(2, 2, 4, 4)
    activated = nn.functional.relu(block.norm1(images))
    assert torch.equal(block(images)[:, 1:3], activated[:, :, ::2, ::2])


def test_a_pointwise_convolution_is_torchs_strided_one() -> None:
    conv = PointwiseConv(4, 8, stride=2)
    images = torch.randn(20, 4, 7, 8)
    expected = nn.functional.conv2d(images, conv.weight, stride=2)
    torch.testing.assert_close(conv(images), expected)


def test_dropout_follows_the_seed_and_ends_with_training() -> None:
    model = seeded(WideResNetSpec(depth=10, widen=1, dropout=0.5))
    images = torch.rand(4, 3, 8, 8)

    def logits(seed: int) -> torch.Tensor:
        with forked_rng("dropout", seed, torch.device("cpu")):
            result: torch.Tensor = model(images)
            return result

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    model.eval()
    assert torch.equal(logits(1), logits(2))


@pytest.mark.parametrize(
    ("spec", "fan"),
    [
        (ResNetSpec(width=64), lambda conv: conv.out_channels),
        (ResNetSpec(width=64, block="preact-basic"), lambda conv: conv.out_channels),
        (WideResNetSpec(depth=10, widen=4), lambda conv: conv.in_channels),
        (DenseNetSpec(depth=10, growth=48), lambda conv: conv.out_channels),
    ],
    ids=["resnet", "preact", "wide-resnet", "densenet"],
)
def test_convolutions_have_the_variance_of_the_papers_code(
    spec: ModelSpec, fan: Callable[[nn.Conv2d], int]
) -> None:
    model = seeded(spec)
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        expected = (2 / (fan(conv) * conv.kernel_size[0] ** 2)) ** 0.5
        if conv.weight.numel() > 10_000:
            assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert isinstance(model.classifier, nn.Linear)
    assert not model.classifier.bias.any()


def test_the_seed_decides_the_first_weights() -> None:
    def first_weights(seed: int) -> torch.Tensor:
        weights = seeded(ResNetSpec(width=4), channels=1, seed=seed).parameters()
        return nn.utils.parameters_to_vector(weights)

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other, again = first_weights(1), first_weights(2), first_weights(1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)
