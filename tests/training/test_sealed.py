"""The test part of a data set is read by a confirmation, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.tasks.protocol import Run
from kdecay_search.training import images
from kdecay_search.training.data import Purpose, Split, StreamedSplit, load
from kdecay_search.training.data.sealed import Sealed, TestPartIsSealed

CPU = torch.device("cpu")
MakeFolder = Callable[..., Path]
MakeData = Callable[..., DataSpec]
DIGITS = DataSpec(name="digits")


def pixels(*parts: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for part in parts for image in part}


def test_a_sealed_part_is_not_read_by_a_search() -> None:
    read: list[int] = []
    sealed = Sealed(lambda: read.append(1))
    with pytest.raises(TestPartIsSealed, match="asked for by a search"):
        sealed.open(Purpose.SEARCH)
    assert read == []
    sealed.open(Purpose.CONFIRMATION)
    assert read == [1]


def test_a_confirmation_trains_on_what_the_search_held_out_and_measures_on_other_digits() -> None:
    search, last = load(DIGITS, CPU), load(DIGITS, CPU, Purpose.CONFIRMATION)
    assert isinstance(search, Split)
    assert isinstance(last, Split)
    seen = torch.cat([search.training_images, search.validation_images])
    assert len(last.training_images) == len(seen) == 1438
    assert pixels(last.training_images) == pixels(seen)
    assert len(last.validation_images) == 1797 - 1438
    assert pixels(last.validation_images).isdisjoint(pixels(seen))


def test_a_subset_holds_for_the_training_part_alone(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 8, "dog": 8}, under="train")
    root = image_folder({"cat": 5, "dog": 7}, under="test")
    split = load(folder_data(root, subset=6), CPU, Purpose.CONFIRMATION)
    assert isinstance(split, Split)
    assert len(split.training_labels) == 6
    assert torch.bincount(split.validation_labels).tolist() == [5, 7]


def test_a_search_reads_no_file_of_the_test_part(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 4, "dog": 4}, under="train")
    root = image_folder({"cat": 2, "dog": 2}, under="test")
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"must not be opened")
    load(folder_data(root), CPU)
    with pytest.raises(DataError, match="cannot be decoded"):
        load(folder_data(root), CPU, Purpose.CONFIRMATION)


def test_imagenet_s_test_part_is_val(image_folder: MakeFolder) -> None:
    image_folder({"cat": 4, "dog": 4}, under="train")
    root = image_folder({"cat": 1, "dog": 2}, under="val")
    split = load(DataSpec(name="imagenet", root=str(root)), CPU, Purpose.CONFIRMATION)
    assert isinstance(split, StreamedSplit)
    assert len(split.training_paths) == 8
    assert split.validation_labels.tolist() == [0, 1, 1]
    assert all(b"/val/" in path for path in split.validation_paths)


@pytest.mark.parametrize(
    ("test_part", "says"),
    [
        ({}, "has no test/; a confirmation needs a test part"),
        ({"cat": 2}, r"differs from train/ in \['dog'\]"),
    ],
)
def test_a_test_part_that_cannot_be_used_is_one_line(
    test_part: dict[str, int], says: str, image_folder: MakeFolder, folder_data: MakeData
) -> None:
    root = image_folder({"cat": 4, "dog": 4}, under="train")
    image_folder(test_part, under="test")
    with pytest.raises(DataError, match=says) as caught:
        load(folder_data(root), CPU, Purpose.CONFIRMATION)
    assert "\n" not in str(caught.value)


def test_test_images_of_another_size_are_refused(
    image_folder: MakeFolder, folder_data: MakeData
) -> None:
    image_folder({"cat": 4, "dog": 4}, under="train")
    root = image_folder({"cat": 2, "dog": 2}, under="test", size=(9, 9))
    with pytest.raises(DataError, match="test images are 9 x 9 pixels, training images 12 x 12"):
        load(folder_data(root), CPU, Purpose.CONFIRMATION)


def test_the_task_opens_the_test_part_for_controls_alone(
    recorder: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the task measures on, by the labels that its validation sees."""
    parts = []
    training = images.Training

    def note(run: Run, task: object, split: Split, device: torch.device) -> object:
        parts.append(len(split.validation_labels))
        return training(run, task, split, device)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "Training", note)
    for comparator in (None, "found", "area-matched"):
        run = recorder(epochs=1)
        run.comparator = comparator  # type: ignore[misc]
        images.train(run)
    assert parts == [80, 359, 359]


def test_a_control_is_trained_at_its_own_rates(recorder: Callable[..., Run]) -> None:
    last = {}
    for comparator in ("found", "original", "area-matched", "cosine"):
        run = recorder(ks=(4.0,), epochs=2, schedule={"lr_max": 0.1, "lr_min": 0.01})
        run.comparator = comparator  # type: ignore[misc]
        images.train(run)
        last[comparator] = run.epochs[0].learning_rate  # type: ignore[attr-defined]
    steps = 320 // 50
    u = (steps - 1) / (2 * steps)
    assert last["found"] == pytest.approx(0.01 + 0.09 * (1 - u**4))
    assert last["original"] == pytest.approx(0.01 + 0.09 * (1 - u))
    assert last["area-matched"] == pytest.approx(0.01 + 0.144 * (1 - u))
    assert last["cosine"] == pytest.approx(0.01 + 0.045 * (1 + np.cos(np.pi * u)))
