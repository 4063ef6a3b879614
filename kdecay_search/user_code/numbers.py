"""The numbers that training code reports."""

from __future__ import annotations

import math

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import DIVERGED_ERROR, Epoch


def epoch_of(
    done: int,
    validation_error: float,
    averaged_error: float | None,
    loss: float | None,
    rate: float | None,
    name: str = "validation_error",
) -> Epoch:
    """The state after ``done`` epochs. NaN or infinity anywhere makes it a diverged one. ``name``:
    what the task calls its error.

    Raises :class:`TaskError`, in one line, for what is no number, or no error in percent.
    """
    error = number(name, validation_error)
    averaged = None if averaged_error is None else number("averaged_error", averaged_error)
    mean_loss = None if loss is None else number("loss", loss)
    last_rate = None if rate is None else number("lr", rate)
    known = [value for value in (error, averaged, mean_loss) if value is not None]
    if not all(map(math.isfinite, known)):
        worst = None if averaged is None else DIVERGED_ERROR
        return Epoch(done, math.nan, DIVERGED_ERROR, worst, last_rate)
    check_percent(name, error)
    if averaged is not None:
        check_percent("averaged_error", averaged)
    return Epoch(done, mean_loss, error, averaged, last_rate)


def number(name: str, value: object) -> float:
    """``value`` as a float, also if it is numpy's or a tensor of one number."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise TaskError(f"{name} = {value!r}: must be a number") from None


def check_percent(name: str, error: float) -> None:
    if not 0.0 <= error <= DIVERGED_ERROR:
        raise TaskError(f"{name} = {error:g}: must be an error in percent, from 0 to 100")
