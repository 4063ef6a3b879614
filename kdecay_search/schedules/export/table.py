"""A schedule as a table of its values."""

from __future__ import annotations

from kdecay_search.schedules.kdecay import Schedule


def schedule_csv(schedule: Schedule, total_steps: int) -> str:
    """CSV with the header ``step,learning_rate`` and a row for each step from 0 to total_steps.

    Floats are written by ``repr``, so reading them gives the same bits. Raises InvalidSchedule.
    """
    schedule(total_steps, total_steps)  # refuses a total_steps that would give an empty table
    rows = (f"{step},{schedule(step, total_steps)!r}\n" for step in range(total_steps + 1))
    return "step,learning_rate\n" + "".join(rows)
