"""Calls a user's training function with a :class:`TaskRun`, and checks what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import Run
from kdecay_search.user_code.reports import as_float, check_percent
from kdecay_search.user_code.run import Diverged, TaskRun


def run_function(function: Callable[[TaskRun], object], run: Run) -> float | None:
    """Let a user's training function train ``run``.

    Args:
        function: The training function; it gets a :class:`TaskRun`.
        run: The run to train.

    Returns:
        The final validation error (%) that the function returned; None if it returned none, or if
        the run diverged.

    Raises:
        Interruption: The run was interrupted, even if the function caught the interruption.
        TaskError: The function used its :class:`TaskRun` incorrectly.
        Exception: Anything else that the function raises.
    """
    task_run = TaskRun(run)
    try:
        result = function(task_run)
        task_run._raise_if_interrupted()
        return _final_error(task_run, result)
    except Diverged:
        return None
    except Exception:
        with suppress(Diverged):
            task_run._raise_if_interrupted()
            raise
        return None


def _final_error(task_run: TaskRun, result: object) -> float | None:
    """Check what the function returned; if it reported no epoch, report that as the only one."""
    if result is None:
        if not task_run.epochs_done:
            raise TaskError(
                "the function reported no epoch and returned no number: call run.report after "
                "every epoch, or return the validation error in percent"
            )
        return None
    error = as_float("the returned validation error", result)
    if not task_run.epochs_done:
        task_run.report(1, error)
    elif math.isfinite(error):
        check_percent("the returned validation error", error)
    return error if math.isfinite(error) else None
