"""What ``TaskRun.report`` records, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import Epoch
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun


def test_values_are_passed_on_as_given() -> None:
    run = RecordedRun()
    task_run = TaskRun(run)
    task_run.report(1, 40.0)
    task_run.report(2, torch.tensor(30.0), averaged_error=20, loss=1.5, lr=0.01)
    assert run.epochs == [
        Epoch(1, None, 40.0, None, None),
        Epoch(2, 1.5, 30.0, 20.0, 0.01),
    ]


@pytest.mark.parametrize("epoch", [0, 2, 1.5, "1"])
def test_epochs_are_reported_in_order(epoch: Any) -> None:
    with pytest.raises(TaskError, match="epoch 1 is next"):
        TaskRun(RecordedRun()).report(epoch, 40.0)


def test_no_epoch_beyond_the_last() -> None:
    task_run = TaskRun(RecordedRun())
    for number in task_run.remaining_epochs():
        task_run.report(number, 40.0)
    with pytest.raises(TaskError, match=r"report\(epoch=4\): the last was 3"):
        task_run.report(4, 40.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"validation_error": "low"}, "validation_error = 'low': must be a number"),
        ({"validation_error": None}, "validation_error = None: must be a number"),
        ({"validation_error": 101.0}, "validation_error = 101: must be an error in percent"),
        ({"validation_error": -1.0}, "validation_error = -1: must be"),
        ({"validation_error": 5.0, "averaged_error": 400.0}, "averaged_error = 400: must be"),
        ({"validation_error": 5.0, "f1": [1, 2]}, r"f1 = \[1, 2\]: must be a number"),
    ],
)
def test_an_invalid_value_is_refused(values: dict[str, Any], message: str) -> None:
    run = RecordedRun()
    with pytest.raises(TaskError, match=message):
        TaskRun(run).report(1, **values)
    assert run.epochs == []


@pytest.mark.parametrize(
    "values", [{"validation_error": math.nan}, {"validation_error": 5.0, "loss": math.inf}]
)
def test_nan_ends_the_run_as_diverged(values: Any) -> None:
    run = RecordedRun()

    def train(task_run: TaskRun) -> None:
        task_run.report(1, 40.0)
        task_run.report(2, **values)
        raise AssertionError("it continues")

    assert run_function(train, run) is None
    assert [epoch.diverged for epoch in run.epochs] == [False, True]
    assert run.epochs[1].validation_error == 100.0
