"""Checks what training code reports."""

from __future__ import annotations

import math

from kdecay_search.errors import TaskError
from kdecay_search.tasks.protocol import DIVERGED_ERROR, Epoch


def epoch_of(
    number: int,
    validation_error: float,
    averaged_error: float | None,
    loss: float | None,
    lr: float | None,
    name: str = "validation_error",
) -> Epoch:
    """Return what was reported of an epoch, checked.

    NaN or infinity as an error or as the loss makes it a diverged epoch.

    Args:
        number: The epoch's number, counted from 1.
        validation_error: The error of the weights as they are, in percent.
        averaged_error: The error of the averaged weights, in percent; None if not reported.
        loss: The epoch's mean training loss; None if not reported.
        lr: The learning rate of the epoch's last update; None if not known.
        name: What the task calls ``validation_error``, for messages.

    Raises:
        TaskError: A value is not a number, or an error is not in percent.
    """
    error = as_float(name, validation_error)
    averaged = None if averaged_error is None else as_float("averaged_error", averaged_error)
    mean_loss = None if loss is None else as_float("loss", loss)
    last_lr = None if lr is None else as_float("lr", lr)
    known = [value for value in (error, averaged, mean_loss) if value is not None]
    if not all(map(math.isfinite, known)):
        worst = None if averaged is None else DIVERGED_ERROR
        return Epoch(number, math.nan, DIVERGED_ERROR, worst, last_lr)
    check_percent(name, error)
    if averaged is not None:
        check_percent("averaged_error", averaged)
    return Epoch(number, mean_loss, error, averaged, last_lr)


def as_float(name: str, value: object) -> float:
    """Return ``value`` as a float; NumPy scalars and tensors of one element are accepted.

    Raises:
        TaskError: ``value`` is not a number.
    """
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise TaskError(f"{name} = {value!r}: must be a number") from None


def check_percent(name: str, error: float) -> None:
    """Check that ``error`` lies between 0 and 100.

    Raises:
        TaskError: It does not.
    """
    if not 0.0 <= error <= DIVERGED_ERROR:
        raise TaskError(f"{name} = {error:g}: must be an error in percent, from 0 to 100")


def check_next_epoch(name: str, number: object, done: int, total: int) -> int:
    """Check that a reported epoch is the next one, and return its number as an ``int``.

    Args:
        name: What was reported, for the message.
        number: The epoch's number, counted from 1.
        done: Number of epochs reported before.
        total: Number of epochs of the whole run.

    Raises:
        TaskError: It is another one, or the run has no more epochs.
    """
    if number != done + 1 or done == total:
        rule = f"epoch {done + 1} is next" if done < total else f"the last was {done}"
        raise TaskError(f"{name}: {rule}; report every epoch once, in order, from 1")
    return done + 1
