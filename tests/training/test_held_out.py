"""The test set of a data set is read by a confirmation, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.tasks.protocol import Run
from kdecay_search.training import trainer
from kdecay_search.training.data.held_out import HeldOutTestSet, Purpose, TestSetAccessError
from kdecay_search.training.data.loading import load
from kdecay_search.training.data.split import Split, StreamedSplit

CPU = torch.device("cpu")
MakeFolder = Callable[..., Path]
MakeData = Callable[..., DataSpec]
DIGITS = DataSpec(name="digits")


def pixels(*parts: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for part in parts for image in part}


def test_a_search_cannot_open_the_test_set() -> None:
    read: list[int] = []
    test_set = HeldOutTestSet(lambda: read.append(1))
    with pytest.raises(TestSetAccessError, match="asked for by a search"):
        test_set.open(Purpose.SEARCH)
    assert read == []
    test_set.open(Purpose.CONFIRMATION)
    assert read == [1]


def test_a_confirmation_trains_on_all_and_measures_on_other_digits() -> None:
    search, confirmation = load(DIGITS, CPU), load(DIGITS, CPU, Purpose.CONFIRMATION)
    assert isinstance(search, Split)
    assert isinstance(confirmation, Split)
    seen = torch.cat([search.training_images, search.validation_images])
    assert len(confirmation.training_images) == len(seen) == 1438
    assert pixels(confirmation.training_images) == pixels(seen)
    assert len(confirmation.validation_images) == 1797 - 1438
    assert pixels(confirmation.validation_images).isdisjoint(pixels(seen))


def test_a_subset_leaves_the_test_set_whole(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 8, "dog": 8}, under="train")
    root = image_folder({"cat": 5, "dog": 7}, under="test")
    split = load(folder_data(root, subset=6), CPU, Purpose.CONFIRMATION)
    assert isinstance(split, Split)
    assert len(split.training_labels) == 6
    assert torch.bincount(split.validation_labels).tolist() == [5, 7]


def test_a_search_reads_no_file_of_the_test_set(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 4, "dog": 4}, under="train")
    root = image_folder({"cat": 2, "dog": 2}, under="test")
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"must not be opened")
    load(folder_data(root), CPU)
    with pytest.raises(DataError, match="cannot be decoded"):
        load(folder_data(root), CPU, Purpose.CONFIRMATION)


def test_the_test_set_of_imagenet_is_val(image_folder: MakeFolder) -> None:
    image_folder({"cat": 4, "dog": 4}, under="train")
    root = image_folder({"cat": 1, "dog": 2}, under="val")
    split = load(DataSpec(name="imagenet", root=str(root)), CPU, Purpose.CONFIRMATION)
    assert isinstance(split, StreamedSplit)
    assert len(split.training_paths) == 8
    assert split.validation_labels.tolist() == [0, 1, 1]
    assert all(b"/val/" in path for path in split.validation_paths)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "has no test/; a confirmation needs a test set"),
        ({"cat": 2}, "differs from the training set in the classes dog"),
    ],
)
def test_an_unusable_test_set_is_one_line(
    counts: dict[str, int], message: str, image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 4, "dog": 4}, under="train")
    image_folder(counts, under="test")
    with pytest.raises(DataError, match=message) as caught:
        load(folder_data(root), CPU, Purpose.CONFIRMATION)
    assert "\n" not in str(caught.value)


def test_test_images_of_another_size_are_refused(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 4, "dog": 4}, under="train")
    root = image_folder({"cat": 2, "dog": 2}, under="test", size=(9, 9))
    with pytest.raises(DataError, match="test images are 9 x 9 pixels, training images 12 x 12"):
        load(folder_data(root), CPU, Purpose.CONFIRMATION)


def test_the_task_opens_the_test_set_for_comparators_alone(
    recorder: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the task measures on, by the labels that its validation sees."""
    parts = []
    make_trainer = trainer.Trainer

    def note(run: Run, task: object, split: Split, *others: object) -> object:
        parts.append(len(split.validation_labels))
        return make_trainer(run, task, split, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "Trainer", note)
    for comparator in (None, "found", "area-matched"):
        run = recorder(epochs=1)
        run.comparator = comparator  # type: ignore[misc]
        trainer.train(run)
    assert parts == [80, 359, 359]


def test_a_comparator_is_trained_at_its_own_rates(recorder: Callable[..., Run]) -> None:
    last = {}
    for comparator in ("found", "original", "area-matched", "cosine"):
        run = recorder(ks=(4.0,), epochs=2, schedule={"lr_max": 0.1, "lr_min": 0.01})
        run.comparator = comparator  # type: ignore[misc]
        trainer.train(run)
        last[comparator] = run.epochs[0].learning_rate  # type: ignore[attr-defined]
    steps = 320 // 50
    u = (steps - 1) / (2 * steps)
    assert last["found"] == pytest.approx(0.01 + 0.09 * (1 - u**4))
    assert last["original"] == pytest.approx(0.01 + 0.09 * (1 - u))
    assert last["area-matched"] == pytest.approx(0.01 + 0.144 * (1 - u))
    assert last["cosine"] == pytest.approx(0.01 + 0.045 * (1 + np.cos(np.pi * u)))
