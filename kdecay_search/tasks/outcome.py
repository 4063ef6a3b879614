"""What a run's reports amount to, wherever it was trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from kdecay_search.study.metric import Metric
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.protocol import Epoch, is_finite, worst_value


def result_of(metric: Metric, curve: Sequence[Epoch], value: float | None) -> float:
    """The result of a run that has trained to its end: infinite, and the worst there is, if it has
    diverged.

    Args:
        metric: The study's metric.
        curve: All reports of the run.
        value: The run's final value of the metric; None for that of the last report.
    """
    last = curve[-1]
    result = last.validation_error if value is None else value
    return worst_value(metric) if last.diverged or not is_finite(result) else result


def is_worsened(metric: Metric, curve: Sequence[Epoch]) -> bool:
    """Whether a run ended with a worse raw value than it began with; not one that has diverged."""
    first, last = curve[0], curve[-1]
    if last.diverged or first.diverged:
        return False
    return metric.error(last.validation_error) > metric.error(first.validation_error)


def curves_of(curve: Sequence[Epoch], names: Iterable[str]) -> dict[str, list[float]]:
    """The curves of a run by name: one value for each report, NaN where one is missing; a curve
    without any value is left out.

    Args:
        curve: All reports of the run.
        names: Names of the curves that are wanted, fields of :class:`Epoch`.
    """
    columns = {name: [getattr(epoch, name) for epoch in curve] for name in names}
    return {
        name: [math.nan if value is None else value for value in column]
        for name, column in columns.items()
        if column.count(None) < len(column)
    }


def may_be_paused(spec: StudySpec, epoch: Epoch, reported_before: int) -> bool:
    """Whether a run may be paused after a report: at a look, with an averaged value that can be
    compared.

    Args:
        spec: The study.
        epoch: The report.
        reported_before: The last report that an earlier holder or trial of the run has made: there,
            the decision has been made before.
    """
    is_comparable = not epoch.diverged and epoch.averaged_error is not None
    return is_comparable and epoch.number > reported_before and epoch.number in spec.looks


def reported_value(epoch: Epoch) -> float:
    """The value that a report counts with: the averaged one, or the raw one if there is none."""
    return epoch.validation_error if epoch.averaged_error is None else epoch.averaged_error
