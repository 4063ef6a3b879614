"""Checks what training code reports."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Literal

from kdecay_search.errors import TaskError
from kdecay_search.study.metric import Metric
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.tasks.protocol import Epoch

if TYPE_CHECKING:
    from kdecay_search.user_code.run import TaskRun

VALUE, AVERAGED = "value", "averaged_value"
"""What messages call the two values of a report, unless the task calls them otherwise."""
LARGEST_COUNT = 1e15
"""Largest number of steps: up to it, every whole number is a float."""


class WrongReport(TaskError):
    """What was reported is wrong, and would be wrong in every attempt: the run fails at once."""


def report_of(
    metric: Metric,
    value: object,
    averaged: object = None,
    loss: object = None,
    lr: object = None,
    names: tuple[str, str] = (VALUE, AVERAGED),
) -> Epoch:
    """Return what was reported, checked; its number is still 0.

    NaN or infinity as a value or as the loss makes it the report of a run that has diverged.

    Args:
        metric: The study's metric.
        value: The metric's value with the weights as they are.
        averaged: Its value with the averaged weights; None if not reported.
        loss: The mean training loss since the report before; None if not reported.
        lr: The learning rate of the last update; None if not known.
        names: What the task calls ``value`` and ``averaged``, for messages.

    Raises:
        WrongReport: One of them is not a number.
    """
    reported = Epoch(
        number=0,
        training_loss=None if loss is None else as_float("loss", loss),
        validation_error=as_float(names[0], value),
        averaged_error=None if averaged is None else as_float(names[1], averaged),
        learning_rate=None if lr is None else as_float("lr", lr),
    )
    return reported.as_diverged(metric) if reported.diverged else reported


def as_float(name: str, value: object) -> float:
    """Return ``value`` as a float; NumPy scalars and tensors of one element are accepted.

    Raises:
        WrongReport: ``value`` is not a number. Texts and truth values are none.
    """
    is_truth = isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")
    if is_truth or isinstance(value, str | bytes | bytearray):
        raise _not_a_number(name, value)
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond every scale
        return float("inf")
    except (TypeError, ValueError, RuntimeError):
        raise _not_a_number(name, value) from None


def _not_a_number(name: str, value: object) -> WrongReport:
    shown = repr(value)
    return WrongReport(f"{name} = {shown[:60]}: must be a number")


def as_count(name: str, value: object) -> int:
    """Return a number of epochs or steps as an ``int``.

    Args:
        name: What was reported, for the message.
        value: The number. Floats that are whole are accepted, as are the integers of NumPy and
            tensors of one element.

    Raises:
        WrongReport: It is not a whole number, or negative.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number: float = int(value)
    else:
        number = as_float(name, value)
    if not (0 <= number <= LARGEST_COUNT and number == int(number)):
        raise WrongReport(f"{name} = {value!r}: must be a whole number, not negative")
    return int(number)


def check_direction(run: TaskRun, direction: Literal["min", "max"], source: str) -> None:
    """Check that the user's code and the study agree on which values of the metric are better.

    Args:
        run: The run, which knows the study's metric.
        direction: What the code says: whether lower (``min``) or higher (``max``) is better.
        source: Where the code says so, such as ``ModelCheckpoint(mode="max")``.

    Raises:
        WrongReport: The study's direction is the other one.
    """
    if direction == run.metric.direction:
        return
    better = "lower" if direction == "min" else "higher"
    raise WrongReport(
        f'{source} means that {better} is better, but task.metric.direction = "'
        f'{run.metric.direction}"; set direction = "{direction}" under [task.metric] in the study '
        "file, or change it there"
    )


def too_few_reports(name: str, length: TrainingLength, reports: int) -> str:
    """What is wrong with a function that has returned before its last report.

    Args:
        name: The function's name.
        length: The length of the run.
        reports: How many reports it has made.
    """
    return (
        f"{name} returned after {length.position(reports)} of {length.setting}; report every "
        f"{length.unit}, or set {length.key} to the number of {length.unit}s that it trains"
    )
