"""What ``TaskRun.report`` records, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import Epoch, Interruption
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.reports import WrongReport, check_direction
from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun

HIGHER = {"kind": "python", "epochs": 3, "entry": "a:b", "metric": {"direction": "max"}}


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
    with pytest.raises(TaskError, match=r"report\(epoch=4\): all of 3 epochs were rep"):
        task_run.report(4, 40.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"validation_error": "low"}, "validation_error = 'low': must be a number"),
        ({"validation_error": None}, "value = None: must be a number"),
        ({"value": "0.5"}, "value = '0.5': must be a number"),
        ({"value": b"1"}, "value = b'1': must be a number"),
        ({"value": True}, "value = True: must be a number"),
        ({"value": np.bool_(True)}, "value = .*True.*: must be a number"),
        ({"value": 5.0, "averaged_value": "low"}, "averaged_value = 'low': must be a number"),
        ({"value": 5.0, "averaged_error": False}, "averaged_error = False: must be a number"),
        ({"validation_error": 5.0, "f1": [1, 2]}, r"f1 = \[1, 2\]: must be a number"),
    ],
)
def test_an_invalid_value_is_refused(values: dict[str, Any], message: str) -> None:
    run = RecordedRun()
    with pytest.raises(WrongReport, match=message):
        TaskRun(run).report(1, **values)
    assert run.epochs == []


@pytest.mark.parametrize("value", [-3.5, 0.0, 1e-9, 434.4, 1e99, 10**6])
def test_any_finite_number_is_a_value(value: float) -> None:
    run = RecordedRun()
    TaskRun(run).report(1, value, value)
    assert run.epochs == [Epoch(1, None, value, value)]


@pytest.mark.parametrize(
    "values",
    [
        {"validation_error": math.nan},
        {"value": -math.inf},
        {"value": 1e101},
        {"value": 10**400},
        {"value": 5.0, "averaged_value": math.nan},
        {"value": 5.0, "loss": math.inf},
    ],
)
def test_nan_ends_the_run_as_diverged(values: Any) -> None:
    run = RecordedRun()

    def train(task_run: TaskRun) -> None:
        task_run.report(1, 40.0)
        task_run.report(2, **values)
        raise AssertionError("it continues")

    assert run_function(train, run) is None
    assert [epoch.diverged for epoch in run.epochs] == [False, True]
    assert run.epochs[1].validation_error == math.inf


def test_a_diverged_run_has_the_worst_value_of_its_direction() -> None:
    run = RecordedRun(task=HIGHER)
    with pytest.raises(Interruption):
        TaskRun(run).report(1, math.inf, math.inf)
    assert (run.epochs[0].validation_error, run.epochs[0].averaged_error) == (-math.inf, -math.inf)


@pytest.mark.parametrize(("task", "worst"), [({}, math.inf), ({"task": HIGHER}, -math.inf)])
def test_a_final_nan_is_the_result_of_a_run_that_diverged(task: Any, worst: float) -> None:
    def train(task_run: TaskRun) -> float:
        task_run.report(1, 40.0)
        return math.nan

    assert run_function(train, RecordedRun(**task)) == worst


@pytest.mark.parametrize(("stated", "agrees"), [("max", True), ("min", False)])
def test_a_direction_that_contradicts_the_study_is_refused(stated: Any, agrees: bool) -> None:
    task_run = TaskRun(RecordedRun(task=HIGHER))
    assert task_run.metric.direction == "max"
    if agrees:
        check_direction(task_run, stated, "greater_is_better=True")
        return
    with pytest.raises(WrongReport, match=r'that lower is better.*set direction = "min"'):
        check_direction(task_run, stated, "greater_is_better=False")
