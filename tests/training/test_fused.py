"""Networks that are trained as one are trained as they would be one by one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdecay_search.study.networks import (
    DenseNetSpec,
    ModelSpec,
    ResNet50Spec,
    ResNetSpec,
    WideResNetSpec,
)
from kdecay_search.training import models
from kdecay_search.training.averaging import AveragedModel
from kdecay_search.training.fused.network import FusedNetwork

RATES = (0.03, 0.1)
"""Learning rate of each network."""


class Training:
    """A network with its average and its optimizer, as the image task has them."""

    def __init__(self, spec: ModelSpec, rate: float) -> None:
        torch.manual_seed(3)
        self.network = models.build(spec, 5, 3).double().to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(self.network, 7.0)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), rate, 0.9, weight_decay=1e-3, nesterov=True, fused=True
        )

    def update(self) -> None:
        self.optimizer.step()
        self.averaged.update()

    def state(self) -> dict[str, Tensor]:
        named = {f"average.{k}": v for k, v in self.averaged.model.state_dict().items()}
        return self.network.state_dict() | named


def batches(count: int, side: int) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(6, 3, side, side, generator=random, dtype=torch.float64).to(
                memory_format=torch.channels_last
            ),
            torch.randint(5, (6,), generator=random),
        )
        for _ in range(count)
    ]


def train_alone(training: Training, data: Sequence[tuple[Tensor, Tensor]]) -> None:
    for images, labels in data:
        loss = functional.cross_entropy(training.network(images), labels)
        training.optimizer.zero_grad()
        loss.backward()
        training.update()


def train_fused(trainings: Sequence[Training], data: Sequence[tuple[Tensor, Tensor]]) -> None:
    fused = FusedNetwork([training.network for training in trainings])
    for images, labels in data:
        logits = fused(images)
        fused.zero_grad()
        losses = [functional.cross_entropy(each, labels) for each in logits]
        torch.stack(losses).sum().backward()
        for training in trainings:
            training.update()


def difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize(
    ("spec", "side", "updates"),
    [
        (ResNetSpec(width=4), 8, 50),
        (ResNetSpec(width=4, shortcut="B"), 8, 50),
        (ResNetSpec(width=4, block="preact-basic"), 8, 50),
        (ResNetSpec(width=4, depth=11, block="preact-bottleneck"), 8, 50),
        (WideResNetSpec(depth=10, widen=1, dropout=0.3), 8, 50),
        (DenseNetSpec(depth=10, growth=4), 8, 50),
        (ResNet50Spec(), 32, 1),  # of 25 million weights; 50 updates agree too, and take 90 s
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_fused_networks_are_trained_as_one_by_one(spec: ModelSpec, side: int, updates: int) -> None:
    """To 1e-9 in float64: weights, batch norm's statistics and averages."""
    data = batches(updates, side)
    alone = [Training(spec, rate) for rate in RATES]
    for training in alone:
        torch.manual_seed(4)  # for dropout
        train_alone(training, data)
    fused = [Training(spec, rate) for rate in RATES]
    torch.manual_seed(4)
    train_fused(fused, data)
    for one, other in zip(alone, fused, strict=True):
        assert difference(one.network, other.network) < 1e-9
        assert difference(one.averaged.model, other.averaged.model) < 1e-9
