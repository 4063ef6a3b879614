"""The paper's study files train, with smaller networks and fewer images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.study.builtin_tasks import ImagesTask
from kdecay_search.study.file import load
from kdecay_search.training.trainer import train

FILES = sorted((Path(__file__).parents[2] / "studies" / "paper").glob("*.toml"))
ONE_OF_EACH = [file for file in FILES if not file.stem.endswith("cifar100")]

SMALL_NETWORK = {
    "preact-bottleneck": ["depth=11", "width=2"],
    "preact-basic": ["depth=8", "width=2"],
    "basic": ["depth=8", "width=2"],
    "wide-resnet": ["depth=10", "widen=1"],
    "densenet-bc": ["depth=10", "growth=2"],
    "resnet50": [],
}
SMALL_TASK = ["task.epochs=1", "task.batch_size=10", "task.data.validation=0.2"]


@pytest.fixture
def stand_in(image_folder: Callable[..., Path]) -> Path:
    """A few colour images in two classes, in place of the data sets."""
    return image_folder({"cat": 15, "dog": 15}, under="train", size=(32, 32))


@pytest.mark.parametrize("file", ONE_OF_EACH, ids=lambda path: path.stem)
def test_a_study_file_of_the_paper_trains_at_toy_scale(
    file: Path, stand_in: Path, recorder: Callable[..., Any]
) -> None:
    """With the file's own normalisation, padding, flips, optimizer and schedule."""
    task = load(file).task
    assert isinstance(task, ImagesTask)
    network = SMALL_NETWORK[getattr(task.model, "block", task.model.name)]
    is_imagenet = task.data.name == "imagenet"
    name, side = ("imagenet", 32) if is_imagenet else ("image-folder", 8)
    run = recorder()
    run.spec = load(
        file,
        [
            *(f"task.model.{setting}" for setting in network),
            *(f"task.data.name={name}", f"task.data.root={stand_in}"),
            *(f"task.data.image_size={side}", "task.data.subset=30", "workers.decoders=0"),
            *SMALL_TASK,
        ],
    )
    assert run.spec.task.data.normalisation == task.data.normalisation
    train(run)
    (epoch,) = run.epochs
    assert not epoch.diverged
