from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.split import Split
from kdecay_search.training.in_memory_loader import InMemoryTrainLoader, Normalisation

COUNT, CHANNELS, HEIGHT, WIDTH = 30, 3, 8, 10


@pytest.fixture
def split() -> Split:
    random = torch.Generator().manual_seed(0)
    shape = (COUNT, CHANNELS, HEIGHT, WIDTH)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=random)
    return Split(
        training_images=images,
        training_labels=torch.arange(COUNT),
        validation_images=images[:4],
        validation_labels=torch.arange(4),
        classes=COUNT,
        mean=(120.0, 130.4, 90.6),
        std=(70.0, 60.0, 50.0),
    )


def batches(
    split: Split, *, batch_size: int = 7, seed: int = 0, **data: Any
) -> InMemoryTrainLoader:
    return InMemoryTrainLoader(DataSpec(name="cifar10", root="/", **data), split, batch_size, seed)


def padded_image(split: Split, label: int, padding: int, mode: str) -> torch.Tensor:
    image = split.training_images[label].float()
    if mode == "reflect":
        return functional.pad(image[None], (padding,) * 4, mode="reflect")[0]
    mean = torch.tensor(split.mean).round() if mode == "mean" else torch.zeros(CHANNELS)
    shape = (CHANNELS, HEIGHT + 2 * padding, WIDTH + 2 * padding)
    padded = mean.view(-1, 1, 1).expand(shape).clone()
    padded[:, padding : padding + HEIGHT, padding : padding + WIDTH] = image
    return padded


def crops_of(
    split: Split, label: int, padding: int, flip: bool, mode: str = "mean"
) -> list[torch.Tensor]:
    """Every crop of one image, flipped as well if wanted, by slicing."""
    padded = padded_image(split, label, padding, mode)
    ends = range(2 * padding + 1)
    crops = [padded[:, y : y + HEIGHT, x : x + WIDTH] for y in ends for x in ends]
    return crops + [crop.flip(2) for crop in crops] if flip else crops


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (1, False), (2, True)])
def test_every_image_of_a_batch_is_a_crop_of_its_own_image(
    split: Split, padding: int, flip: bool
) -> None:
    normalise = Normalisation(split, torch.device("cpu"))
    seen = set()
    for epoch in range(24):
        epoch_batches = batches(split, crop_padding=padding, flip=flip).epoch(epoch)
        for images, labels in epoch_batches:
            for image, label in zip(images, labels.tolist(), strict=True):
                allowed = [
                    normalise(crop[None])[0] for crop in crops_of(split, label, padding, flip)
                ]
                matches = [n for n, crop in enumerate(allowed) if torch.equal(crop, image)]
                assert matches
                seen.add(matches[0])
    possible = (2 * padding + 1) ** 2 * (2 if flip else 1)
    assert len(seen) == possible


@pytest.mark.parametrize("mode", ["mean", "black", "reflect"])
def test_padding_has_the_mode_of_the_study(split: Split, mode: str) -> None:
    normalise = Normalisation(split, torch.device("cpu"))
    made = batches(split, batch_size=COUNT, crop_padding=2, flip=False, padding_mode=mode)
    seen = set()
    for epoch in range(30):
        ((images, labels),) = made.epoch(epoch)
        image = images[labels == 3]
        allowed = [normalise(crop[None]) for crop in crops_of(split, 3, 2, False, mode)]
        matches = [n for n, crop in enumerate(allowed) if torch.equal(crop, image)]
        assert matches
        seen.add(matches[0])
    assert {n for n in seen if n != 12}, "only the middle was drawn: nothing of the padding"


def test_reflection_may_be_wider_than_the_image(split: Split) -> None:
    ((images, _),) = batches(
        split, batch_size=COUNT, crop_padding=20, padding_mode="reflect"
    ).epoch(0)
    assert images.shape == (COUNT, CHANNELS, HEIGHT, WIDTH)


def test_default_padding_and_flips(
    split: Split,
) -> None:
    def drawn(name: str) -> set[tuple[float, ...]]:
        data = DataSpec(name=name, root="/")  # type: ignore[arg-type]
        made = InMemoryTrainLoader(data, split, COUNT, 0)
        return {
            tuple(image.flatten().tolist())
            for epoch in range(12)
            for images, labels in made.epoch(epoch)
            for image in images[labels == 3]
        }

    normalise = Normalisation(split, torch.device("cpu"))

    def allowed(flip: bool) -> set[tuple[float, ...]]:
        crops = crops_of(split, 3, 1, flip)
        return {tuple(normalise(crop[None]).flatten().tolist()) for crop in crops}

    assert drawn("digits") <= allowed(flip=False)
    assert drawn("cifar10") <= allowed(flip=True)
    assert not drawn("cifar10") <= allowed(flip=False)


def test_an_epoch_has_every_image_once_and_no_partial_batch(split: Split) -> None:
    made = batches(split, batch_size=7)
    assert made.steps_per_epoch == 4
    labels = [labels for _, labels in made.epoch(1)]
    assert [len(part) for part in labels] == [7] * 4
    assert len(torch.cat(labels).unique()) == 28


def test_fewer_images_than_a_batch_are_one_batch(split: Split) -> None:
    made = batches(split, batch_size=1000)
    ((images, labels),) = made.epoch(1)
    assert made.steps_per_epoch == 1
    assert images.shape == (COUNT, CHANNELS, HEIGHT, WIDTH)
    assert sorted(labels.tolist()) == list(range(COUNT))


def test_an_epoch_depends_on_seed_and_number_alone(split: Split) -> None:
    def first(seed: int, number: int, warm: int = 0) -> torch.Tensor:
        made = batches(split, seed=seed)
        for past in range(warm):
            list(made.epoch(past))
        return next(iter(made.epoch(number)))[0]

    assert torch.equal(first(0, 3), first(0, 3, warm=2))
    assert not torch.equal(first(0, 3), first(0, 4))
    assert not torch.equal(first(0, 3), first(1, 3))


def test_batches_lie_channels_last_in_memory(split: Split) -> None:
    images, _ = next(iter(batches(split).epoch(0)))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_of_one_is_one_clear_line(split: Split) -> None:
    with pytest.raises(DataError, match=r"task\.batch_size = 1: batch norm needs two"):
        batches(split, batch_size=1)


def test_normalised_images_have_mean_zero_and_deviation_one(split: Split) -> None:
    images = torch.tensor(split.mean).view(1, -1, 1, 1) + torch.tensor([-1.0, 1.0]).view(
        2, 1, 1, 1
    ) * torch.tensor(split.std).view(1, -1, 1, 1)
    normalised = Normalisation(split, torch.device("cpu"))(images)
    expected = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand_as(normalised)
    torch.testing.assert_close(normalised, expected)
