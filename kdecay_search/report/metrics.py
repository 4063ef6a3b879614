"""What a study's metric, its values and its differences are called in tables and figures."""

from __future__ import annotations

from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.metric import Metric, MetricFormat

VALIDATION, TEST = "validation ", "test "
"""What the names of metrics on validation data and on the test set begin with."""


def with_unit(name: str, metric: Metric) -> str:
    """A heading or an axis of values of the metric, such as ``mean error, %``."""
    return f"{name}, {metric.unit}" if metric.unit else name


def word(metric: Metric) -> str:
    """What one value is called in a narrow place: ``error``, ``loss`` or ``accuracy``."""
    return metric.name.removeprefix(VALIDATION) or metric.name


def by_seed(metric: Metric) -> str:
    """Heading of a column with a value for every seed, such as ``errors by seed, %``."""
    name = word(metric)
    return with_unit(f"{'errors' if name == 'error' else name} by seed", metric)


def test_name(metric: Metric) -> str:
    """The metric on the test set: ``test error`` for ``validation error``."""
    if metric.name.startswith(VALIDATION):
        return TEST + metric.name.removeprefix(VALIDATION)
    return f"{metric.name} on the test set"


def capitalised(name: str) -> str:
    """A name at the beginning of a sentence; one such as ``mAP`` stays as it is."""
    return name[0].upper() + name[1:] if name.islower() else name


def while_rate_is_high(metric: Metric) -> str:
    """What the weights' values are while the learning rate is high, after ``whose``."""
    if metric.direction == "min":
        return f"{word(metric)} is high while the learning rate is"
    return f"{word(metric)} is low while the learning rate is high"


def step(form: MetricFormat) -> float:
    """The smallest difference that the format shows."""
    return float(10**-form.decimals)


def significant_digits(snapshot: StudySnapshot) -> int:
    """Significant digits with which the study's largest value has all decimals that are shown."""
    candidates = [c for stage in snapshot.plan.stages for c in stage.candidates]
    largest = max((abs(e) for c in candidates for e in c.errors.values()), default=0.0)
    return snapshot.plan.format.decimals + len(str(int(largest)))


def in_unit(form: MetricFormat, percent: str = "points") -> str:
    """The unit of differences in a sentence, such as `` in nats``; empty if there is none.

    Args:
        form: The format of the study's metric.
        percent: What differences of percentages are called.
    """
    unit = percent if form.metric.unit == "%" else form.metric.unit
    return f" in {unit}" if unit else ""


def with_difference_unit(name: str, form: MetricFormat) -> str:
    """A heading or an axis of differences, such as ``found is better by, points``."""
    unit = form.difference_unit.strip()
    return f"{name}, {unit}" if unit else name
