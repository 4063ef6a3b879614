"""Calls a user's training function with a :class:`TaskRun`, and checks what came of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from kdecay_search.tasks.protocol import Run, worst_value
from kdecay_search.user_code.reports import WrongReport, report_of
from kdecay_search.user_code.run import Diverged, TaskRun


def run_function(function: Callable[[TaskRun], object], run: Run) -> float | None:
    """Let a user's training function train ``run``.

    Args:
        function: The training function; it gets a :class:`TaskRun`.
        run: The run to train.

    Returns:
        The final value of the metric that the function returned, infinite for one that is not a
        finite number; None if it returned none, or if the run diverged before.

    Raises:
        Interruption: The run was interrupted, even if the function caught the interruption.
        TaskError: The function used its :class:`TaskRun` incorrectly.
        Exception: Anything else that the function raises.
    """
    task_run = TaskRun(run)
    try:
        result = function(task_run)
        task_run._raise_if_interrupted()
        return _final_value(task_run, result)
    except Diverged:
        return None
    except Exception:
        with suppress(Diverged):
            task_run._raise_if_interrupted()
            raise
        return None


def follow(function: Callable[[TaskRun], object], run: Run) -> None:
    """Let a user's function train ``run`` on a rank that reports nothing: on all but rank 0.

    Raises:
        Interruption: The run was interrupted, even if the function caught the interruption.
        Exception: Anything else that the function raises.
    """
    task_run = TaskRun(run)
    with suppress(Diverged):
        try:
            function(task_run)
        finally:
            task_run._raise_if_interrupted()


def _final_value(task_run: TaskRun, result: object) -> float | None:
    """Check what the function returned; if it reported nothing, that is the only report."""
    progress = task_run._progress
    if result is None:
        if not progress.position:
            every = "epoch" if not progress.length.counts_steps else "task.report_every steps"
            raise WrongReport(
                "the function reported nothing and returned no number: call run.report after every "
                f"{every}, or return the final value of the metric"
            )
        task_run._end(is_required=True)
        return None
    final = report_of(task_run.metric, result, names=("the returned value", ""))
    if progress.position:
        task_run._end(is_required=False)
    else:
        task_run._only_report(final)
    return worst_value(task_run.metric) if final.diverged else final.validation_error
