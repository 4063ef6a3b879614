from __future__ import annotations

import pytest
import torch

from kdecay_search.spec import ModelSpec
from kdecay_search.training.models import build
from kdecay_search.training.models.resnet import BasicBlock
from kdecay_search.training.randomness import isolated


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("depth", "classes", "expected"),
    [(20, 10, 269_722), (20, 100, 275_572), (110, 10, 1_727_962), (110, 100, 1_733_812)],
)
def test_a_resnet_has_the_papers_number_of_parameters(
    depth: int, classes: int, expected: int
) -> None:
    assert parameters(build(ModelSpec(depth=depth), classes, channels=3)) == expected


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_depth_counts_the_layers_with_weights_along_the_way(depth: int) -> None:
    model = build(ModelSpec(depth=depth), classes=10, channels=3)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (3, 7), (3, 4)])
def test_images_of_any_size_become_one_row_of_logits_each(channels: int, side: int) -> None:
    model = build(ModelSpec(width=4), classes=7, channels=channels)
    assert model(torch.randn(5, channels, side, side)).shape == (5, 7)


def test_a_shortcut_drops_every_other_pixel_and_adds_zero_channels() -> None:
    block = BasicBlock(2, 4, stride=2)
    torch.nn.init.zeros_(block.norm2.weight)
    images = torch.rand(1, 2, 4, 4)
    output = block(images)
    assert torch.equal(output[:, 1:3], images[:, :, ::2, ::2])
    assert not output[:, [0, 3]].any()


def test_convolutions_start_with_fan_out_variance() -> None:
    with isolated("model", 0, torch.device("cpu")):
        model = build(ModelSpec(depth=8, width=64), classes=10, channels=3)
    block = model.blocks[1]
    assert isinstance(block, BasicBlock)
    expected = (2 / (block.conv1.out_channels * 9)) ** 0.5
    assert block.conv1.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert not model.classifier.bias.any()


def test_a_seed_decides_the_first_weights_and_leaves_the_global_generator_alone() -> None:
    def first_weights(seed: int) -> torch.Tensor:
        with isolated("model", seed, torch.device("cpu")):
            return torch.nn.utils.parameters_to_vector(
                build(ModelSpec(width=4), classes=10, channels=1).parameters()
            )

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other, again = first_weights(1), first_weights(2), first_weights(1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)
