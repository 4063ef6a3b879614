"""The built-in task on several ranks: the same batches, losses and errors as in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from kdecay_search.errors import DataError, KDecayError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.split import Split, StreamedSplit
from kdecay_search.training.in_memory_loader import InMemoryTrainLoader, InMemoryValidationLoader
from kdecay_search.training.process_group import ALONE, ProcessGroup
from kdecay_search.training.streaming_loader import StreamingTrainLoader, StreamingValidationLoader
from tests.support.two_ranks import epochs, on_two_ranks, recorded

CPU = torch.device("cpu")


def test_two_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    """In float64, over all updates; batches of 33 images are 17 and 16."""
    odd = {"batch_size": 33, "data": {"name": "digits", "subset": 300, "validation": 0.25}}
    norm, drop = {"network": "built-in"}, {"network": "dropout"}
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    first, second = on_two_ranks(
        {}, odd, norm,
        {"folder": one, "stops_at": 7},
        drop, drop | {"folder": other, "stops_at": 7}, drop | {"folder": other},
    )  # fmt: skip
    assert first == second, "all ranks know the same numbers"
    for found, arguments in zip(first, [{}, odd], strict=False):
        assert len(found["curve"]) == 3
        for several, alone in zip(epochs(found), epochs(recorded(**arguments)), strict=True):
            assert several.training_loss == pytest.approx(alone.training_loss, rel=1e-12)
            assert several.validation_error == alone.validation_error
            assert several.averaged_error == alone.averaged_error
    parted = epochs(recorded(network="built-in", chunks=2))
    losses = [epoch.training_loss for epoch in epochs(first[2])]
    assert losses == pytest.approx([epoch.training_loss for epoch in parted], rel=1e-9)
    assert losses != pytest.approx(
        [epoch.training_loss for epoch in epochs(recorded(network="built-in"))], rel=1e-3
    )
    assert not first[3]["is_whole"]
    resumed = recorded(folder=one)
    assert resumed["restored"] == 1
    losses = [epoch.training_loss for epoch in epochs(resumed)]
    assert losses == pytest.approx([e.training_loss for e in epochs(first[0])], rel=1e-12)
    undisturbed, stopped, went_on = first[4:]
    assert (stopped["is_whole"], went_on["restored"]) == (False, 1)
    assert went_on["curve"] == undisturbed["curve"], "with dropout, and to the bit"


RANKS = [ProcessGroup(rank, 3) for rank in range(3)]


def test_ranks_share_the_batches_of_one_process() -> None:
    data = DataSpec(name="digits", subset=100, validation=0.3)
    split = load(data, CPU)
    assert isinstance(split, Split)
    loaders = [InMemoryTrainLoader(data, split, 20, 5, group) for group in (ALONE, *RANKS)]
    whole, *parts = ([*loader.epoch(2, done=1)] for loader in loaders)
    assert [len(labels) for _, labels in whole] == [20, 20]
    assert [len(part[0][1]) for part in parts] == [7, 7, 6]
    for batch, *shares in zip(whole, *parts, strict=True):
        for index in range(2):
            assert torch.equal(batch[index], torch.cat([share[index] for share in shares]))
    held_out = [
        torch.cat([labels for _, labels in InMemoryValidationLoader(split, CPU, group)])
        for group in RANKS
    ]
    assert torch.equal(torch.cat(held_out), split.validation_labels)
    with pytest.raises(DataError, match=r"batch_size = 5: .* two images on each of 3 devices; use"):
        InMemoryTrainLoader(data, split, 5, 0, RANKS[0])


def test_ranks_share_the_files_of_one_process(image_folder: Callable[..., Path]) -> None:
    root = image_folder({"a": 8, "b": 8}, under="train")
    data = DataSpec(name="imagenet", root=str(root), validation=0.25, image_size=8)
    split = load(data, CPU)
    assert isinstance(split, StreamedSplit)
    loaders = [StreamingTrainLoader(data, split, 6, 5, CPU, 0, group) for group in (ALONE, *RANKS)]
    whole, *parts = ([*loader.epoch(2)] for loader in loaders)
    for batch, *shares in zip(whole, *parts, strict=True):
        for index in range(2):
            assert torch.equal(batch[index], torch.cat([share[index] for share in shares]))
    many = [ProcessGroup(rank, 6) for rank in range(6)]  # more ranks than images for some
    held_out = [[*StreamingValidationLoader(data, split, 4, CPU, 0, group)] for group in many]
    assert [sum(len(labels) for _, labels in each) for each in held_out] == [1, 1, 1, 1, 0, 0]


def test_batch_norm_is_not_synchronised_on_the_cpu() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1))
    assert ALONE.wrapped(model, is_synchronised=True) is model
    with pytest.raises(KDecayError, match=r"^task.sync_batch_norm = true: torch syn.* GPUs"):
        RANKS[0].wrapped(model, is_synchronised=True)
