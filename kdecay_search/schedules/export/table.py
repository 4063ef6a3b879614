"""A schedule as a table of its values."""

from __future__ import annotations

from kdecay_search.schedules.base import Schedule


def schedule_csv(schedule: Schedule, total_steps: int) -> str:
    """The learning rate of every update as CSV.

    Args:
        schedule: Any schedule.
        total_steps: Optimizer updates of the whole training.

    Returns:
        The header ``step,learning_rate`` and one row for each step from 0 to ``total_steps``.
        Numbers are written by ``repr``, so reading them gives the same bits.

    Raises:
        InvalidSchedule: The schedule does not fit into this many updates.
    """
    schedule(total_steps, total_steps)  # refuses a total_steps that would give an empty table
    rows = (f"{step},{schedule(step, total_steps)!r}\n" for step in range(total_steps + 1))
    return "step,learning_rate\n" + "".join(rows)
