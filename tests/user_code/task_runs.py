"""Runs of the tests of ``TaskRun``."""

from __future__ import annotations

from kdecay_search.user_code.run import TaskRun
from tests.support.recorded_run import RecordedRun

STEPS = 5
EPOCHS = 3


def with_steps(run: RecordedRun) -> TaskRun:
    """Return a task run whose number of updates is known."""
    task_run = TaskRun(run)
    task_run.steps_per_epoch = STEPS
    return task_run
