"""The paper's study files really train, with what makes them big turned down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.spec import ImagesTask
from kdecay_search.study_file import load
from kdecay_search.training.images import train

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


@pytest.mark.parametrize("file", ONE_OF_EACH, ids=lambda path: path.stem)
def test_a_study_file_of_the_paper_trains_at_toy_scale(
    file: Path, recorder: Callable[..., Any]
) -> None:
    task = load(file).task
    assert isinstance(task, ImagesTask)
    network = SMALL_NETWORK[getattr(task.model, "block", task.model.name)]
    run = recorder()
    run.spec = load(
        file,
        [
            *(f"task.model.{setting}" for setting in network),
            *("task.data.name=digits", "task.data.image_size=8", "task.data.subset=60"),
            *("task.epochs=1", "task.batch_size=20", "task.data.crop_padding=1"),
        ],
    )
    train(run)
    (epoch,) = run.epochs
    assert not epoch.diverged
