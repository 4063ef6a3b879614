"""Reports after whatever steps, as those that a study of steps plans."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdecay_search.errors import TaskError
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.tasks.protocol import Epoch
from kdecay_search.user_code.progress import Progress
from kdecay_search.user_code.reports import WrongReport

LENGTH = TrainingLength("step", 2000, 500)


def report(value: float) -> Epoch:
    return Epoch(0, None, value)


def taken(steps: Sequence[int], length: TrainingLength = LENGTH) -> list[tuple[int, float]]:
    """The planned reports of a run that reports after these steps, each with its step as value."""
    progress = Progress(length)
    found = [each for step in steps for each in progress.take("report", step, report(step))]
    found += progress.finish()
    assert found == progress.curve
    return [(each.number, each.validation_error) for each in found]


@pytest.mark.parametrize(
    ("steps", "counted"),
    [
        ([500, 1000, 1500, 2000], [500, 1000, 1500, 2000]),
        ([0, 500, 1000, 1500, 2000], [500, 1000, 1500, 2000]),
        (range(100, 2001, 100), [500, 1000, 1500, 2000]),
        (range(391, 2000, 391), [391, 782, 1173, 1955]),
        ([500, 1000, 1500, 1990], [500, 1000, 1500, 1990]),
        ([500, 1000, 1500, 2004], [500, 1000, 1500, 2004]),
        ([490, 990, 1490, 1990, 2004], [490, 990, 1490, 2004]),
        ([500, 500, 1000, 1500, 2000, 2000, 2001], [500, 1000, 1500, 2000]),
    ],
    ids=["as planned", "from 0", "more often", "epochs", "early", "late", "late twice", "repeated"],
)
def test_what_is_reported_counts_where_it_is_clear(steps: list[int], counted: list[int]) -> None:
    assert taken(steps) == [*enumerate(counted, start=1)]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([1000], "no report from step 1 to 500, but task.report_every = 500; report as often, or"),
        ([500, 1500], "no report from step 501 to 1,000, but task.report_every = 500"),
        ([400, 1600], "no report from step 501 to 1,000"),
        ([500, 300], "follows a report after step 500; report every step once, in order"),
        ([500, 1000, 1500, 2000, 2500], "task.steps = 2000 is the end of the training; set it to"),
        ([500, 1000, 1500], "the last report was after step 1,500 of task.steps = 2000; report"),
        ([500, 1000, 1400], "the last report was after step 1,400 of task.steps = 2000; report"),
        ([1.5], "step = 1.5: must be a whole number"),
        ([-1], "step = -1: must be a whole number, not negative"),
    ],
)
def test_what_is_unclear_is_refused_in_one_line(steps: list[Any], message: str) -> None:
    with pytest.raises(WrongReport, match=message):
        taken(steps)


def test_a_step_with_two_values_is_refused() -> None:
    progress = Progress(LENGTH)
    progress.take("report", 500, report(1.0))
    assert progress.take("report", 500, report(1.0)) == []
    with pytest.raises(WrongReport, match="follows a report after step 500"):
        progress.take("report", 500, report(2.0))


def test_what_is_refused_in_a_resumed_run_may_be_right_in_another_attempt() -> None:
    progress = Progress.restored(LENGTH, [Epoch(1, None, 3.0)])
    with pytest.raises(TaskError, match="no report from step 501 to 1,000") as caught:
        progress.take("report", 1500, report(1.0))
    assert not isinstance(caught.value, WrongReport)


@settings(max_examples=200)
@given(st.integers(1, 60), st.data())
def test_the_last_value_at_or_before_a_planned_step_counts(every: int, data: st.DataObject) -> None:
    total = data.draw(st.integers(every, 300))
    length = TrainingLength("step", total, every)
    steps = sorted(data.draw(st.sets(st.integers(1, total))) | {total})
    expected: list[tuple[int, float]] = []
    for number, planned in enumerate(length.positions(), start=1):
        at = max((s for s in steps if length.position(number - 1) < s <= planned), default=None)
        if at is None:
            with pytest.raises(WrongReport, match="there was no report from step"):
                taken(steps, length)
            return
        expected.append((number, float(at)))
    assert taken(steps, length) == expected


@settings(max_examples=100)
@given(st.data())
def test_a_restored_progress_continues_as_if_it_had_not_ended(data: st.DataObject) -> None:
    length = TrainingLength("step", 100, 10)
    steps = sorted(data.draw(st.sets(st.integers(1, 100))) | set(range(10, 101, 10)))
    cut = data.draw(st.integers(0, len(steps)))
    progress = Progress(length)
    for step in steps[:cut]:
        progress.take("report", step, report(step))
    plain = json.loads(json.dumps(progress.to_plain()))
    again = Progress.restored(length, progress.curve, plain)
    assert again.position == (steps[cut - 1] if cut else 0)
    resumed_at = data.draw(st.sampled_from([0, *steps[:cut]]))  # what the program has saved itself
    again = again.before(resumed_at + 1)
    for step in (step for step in steps if step > resumed_at):
        again.take("report", step, report(step))
    assert [epoch.validation_error for epoch in again.curve] == [*range(10, 101, 10)]
