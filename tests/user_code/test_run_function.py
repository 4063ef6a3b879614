"""How a run ends: by what the function returns or raises, or by an interruption."""

from __future__ import annotations

import pytest

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import Epoch, Lost, Paused, Released
from kdecay_search.user_code.function import run_function
from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun


def test_a_returned_number_is_the_result() -> None:
    def train(task_run: TaskRun, result: float | None) -> float | None:
        task_run.report(1, 40.0)
        return result

    assert run_function(lambda run: train(run, None), RecordedRun()) is None
    assert run_function(lambda run: train(run, 30.0), RecordedRun()) == 30.0


def test_a_number_alone_is_reported() -> None:
    run = RecordedRun()
    assert run_function(lambda task_run: 12.5, run) == 12.5
    assert run.epochs == [Epoch(1, None, 12.5)]


def test_no_report_and_no_result_fails() -> None:
    with pytest.raises(TaskError, match=r"reported nothing and returned no number: call run\.rep"):
        run_function(lambda task_run: None, RecordedRun())


@pytest.mark.parametrize("caught", [True, False])
def test_an_interruption_cannot_be_swallowed(caught: bool) -> None:
    run = RecordedRun(ends={1: Paused})

    def train(task_run: TaskRun) -> float:
        for number in task_run.remaining_epochs():
            try:
                task_run.report(number, 40.0)
            except Exception:
                if not caught:
                    raise ValueError("as a framework would wrap it") from None
        return 40.0

    with pytest.raises(Paused):
        run_function(train, run)
    assert [epoch.number for epoch in run.epochs] == [1]


def test_an_exception_passes_through() -> None:
    def train(task_run: TaskRun) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run_function(train, RecordedRun())


def test_a_lost_trial_ends_every_later_call() -> None:
    run = RecordedRun()
    task_run = TaskRun(run)
    task_run.poll()
    run.end = Lost()
    with pytest.raises(Lost):
        task_run.poll()
    with pytest.raises(Lost):
        task_run.report(1, 40.0)
    assert run.epochs == []


def test_code_that_saves_nothing_is_released_at_once() -> None:
    task_run = TaskRun(RecordedRun(ends={1: Released}))
    with pytest.raises(Released):
        task_run.report(1, 40.0)
