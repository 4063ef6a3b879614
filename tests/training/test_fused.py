"""Networks that are trained as one are trained as they would be one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
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
from kdecay_search.study.trials import RunKey
from kdecay_search.tasks.checkpoint import Checkpoint
from kdecay_search.tasks.protocol import Epoch, Released
from kdecay_search.training import models
from kdecay_search.training.averaging import AveragedModel
from kdecay_search.training.fused.network import FusedNetwork
from kdecay_search.training.fused.trainer import train_together
from kdecay_search.training.trainer import train

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


def curves(runs: Sequence[Sequence[Epoch]]) -> list[list[list[float]]]:
    return [[list(astuple(epoch))[1:4] for epoch in run] for run in runs]


class Interrupted:
    """Makes the poll of a run raise an exception after some updates."""

    def __init__(self, run: Any, polls: int, error: Exception) -> None:
        self.run, self.polls, self.error, run.poll = run, polls, error, self

    def __call__(self) -> None:
        self.polls -= 1
        if self.polls < 0:
            raise self.error


def test_runs_that_are_trained_together_report_what_they_report_alone(
    recorder: Callable[..., Any], tmp_path: Path
) -> None:
    """One is released in mid-epoch, one fails, and one diverges. The first goes on alone and, once
    it has waited for a run that begins, with another."""
    keys = {"epochs": 3, "batch_size": 40, "schedule": {"warmup_epochs": 0}}
    ks = [(1.0,), (2.0,), (4.0,), (1.0,)]
    alone = [recorder(ks=each, **keys) for each in ks]
    together = [recorder(ks=each, **keys) for each in ks]
    alone[3].lr_max = together[3].lr_max = 1e30
    for run in alone:
        train(run)
    for number, run in enumerate(together):
        run.checkpoint = Checkpoint(tmp_path / str(number), RunKey(1, 0, 0), b"x" * 32, 600.0)
    released, failed = together[1], together[2]
    Interrupted(released, 8, Released())  # two updates into the second epoch
    Interrupted(failed, 14, OSError("no space"))  # two into the third
    ended: list[tuple[Any, Exception | None]] = []
    train_together(together, lambda run, error: ended.append((run, error)))
    assert [type(error) for _, error in ended] == [NoneType, Released, OSError, NoneType]
    assert [run for run, _ in ended] == [together[3], released, failed, together[0]]
    assert [len(run.epochs) for run in together] == [3, 1, 2, 1]
    assert together[3].epochs[0].diverged
    kept = released.checkpoint.path.read_bytes()
    ends = []
    for others in ([], [recorder(ks=(3.0,), **keys)]):
        released.checkpoint.path.write_bytes(kept)
        resumed = recorder(ks=ks[1], **keys)
        resumed.checkpoint = released.checkpoint
        if others:
            train_together([resumed, *others], lambda run, error: ended.append((run, error)))
            assert ended[-2:] == [(others[0], None), (resumed, None)]
        else:
            train(resumed)
        assert resumed.restored == released.epochs
        assert released.checkpoint.path.stat().st_size == pytest.approx(len(kept), rel=0.1)
        ends.append(resumed.epochs)
    np.testing.assert_allclose(*curves(ends), rtol=1e-4)
    released.epochs += ends[1]
    every = zip(*(curves([run.epochs for run in runs]) for runs in (alone, together)), strict=True)
    for one, other in every:
        np.testing.assert_allclose(other, one[: len(other)], rtol=1e-4)


@pytest.mark.parametrize(("precision", "rel"), [("bfloat16", 5e-3), ("float64", 1e-12)])
def test_each_precision_gives_what_it_gives_alone(
    recorder: Callable[..., Any], precision: str, rel: float
) -> None:
    keys = {"epochs": 1, "batch_size": 40, "precision": precision}
    alone, together = ([recorder(ks=(k,), **keys) for k in (1.0, 4.0)] for _ in range(2))
    for run in alone:
        train(run)
    errors: list[Exception | None] = []
    train_together(together, lambda run, error: errors.append(error))
    assert errors == [None, None]
    for one, other in zip(alone, together, strict=True):
        losses = [run.epochs[0].training_loss for run in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=rel)
