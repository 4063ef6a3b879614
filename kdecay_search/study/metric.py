"""The metric of a study: what every run reports, which direction is better, and how it is shown.

Two words keep directions apart. A *value* is the metric as the user's code reports it and as
Optuna stores it. An *error* is the same number oriented so that lower is better: the value itself
or, where the metric is to be maximised, its negative. Values become errors where records are read
from the storage, everything that decides or compares works with errors, and :class:`MetricFormat`
shows them as values again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator

from kdecay_search.statistics import Sample
from kdecay_search.study.base import OMITTED_IF_NONE, Settings

OptunaDirection = Literal["MINIMIZE", "MAXIMIZE"]
MAX_DECIMALS = 12
"""Largest number of decimals with which a metric is shown."""
_NOISE_DIGITS = 2
"""Digits in which the noise of a run shows."""
_SIGNIFICANT_DIGITS = 4
"""Digits of the largest value before the noise is known."""


class Metric(Settings):
    """What a run reports and the study optimises: any finite number."""

    name: Annotated[str, Field(min_length=1, max_length=100)] = "validation metric"
    """Name of the metric, as tables and axes show it."""
    direction: Literal["min", "max"] = "min"
    """Whether a lower or a higher value is better."""
    unit: Annotated[str, Field(max_length=20)] = ""
    """Unit behind every value, such as ``%`` or ``nats``; empty for none."""
    decimals: Annotated[int | None, Field(ge=0, le=MAX_DECIMALS), OMITTED_IF_NONE] = None
    """Decimals of every value; None means as many as show the noise of a run in two digits."""

    @field_validator("name", "unit")
    @classmethod
    def _text_is_plain(cls, text: str) -> str:
        if not text.isprintable() or text != text.strip():
            raise ValueError("must be one line of printable text, without spaces around it")
        return text

    @property
    def sign(self) -> int:
        """1 if lower values are better, −1 if higher ones are."""
        return 1 if self.direction == "min" else -1

    @property
    def better(self) -> str:
        """``lower`` or ``higher``: which values are better."""
        return "lower" if self.direction == "min" else "higher"

    @property
    def best(self) -> str:
        """``lowest`` or ``highest``: which of several values is the best."""
        return "lowest" if self.direction == "min" else "highest"

    @property
    def optuna_direction(self) -> OptunaDirection:
        """The direction as Optuna stores it."""
        return "MINIMIZE" if self.direction == "min" else "MAXIMIZE"

    @property
    def label(self) -> str:
        """Name and unit, as an axis shows them: ``validation error, %``."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def error(self, value: float) -> float:
        """A value oriented so that lower is better. Its NaN is infinitely bad."""
        return math.inf if math.isnan(value) else self.sign * value

    def value(self, error: float) -> float:
        """The value that an error stands for: the inverse of :meth:`error`."""
        return self.sign * error


VALIDATION_ERROR = Metric(name="validation error", direction="min", unit="%", decimals=2)
"""The metric of the built-in tasks, and of studies that state none."""


@dataclass(frozen=True)
class MetricFormat:
    """Shows errors as values of a study's metric, all with the same number of decimals.

    Differences are positive where something is better, whatever the metric's direction.
    """

    metric: Metric
    """The study's metric."""
    decimals: int
    """Decimals of values and differences."""

    @staticmethod
    def of(metric: Metric, noise: float | None, errors: Iterable[float] = ()) -> MetricFormat:
        """Choose the decimals.

        Args:
            metric: The study's metric, which may state them.
            noise: Standard deviation of the noise of a run; None if it is not known.
            errors: Results so far; their size counts while the noise is not known.
        """
        if metric.decimals is not None:
            return MetricFormat(metric, metric.decimals)
        if noise is not None and math.isfinite(noise) and noise > 0:
            shown, digits = noise, _NOISE_DIGITS
        else:
            shown = max((abs(error) for error in errors if math.isfinite(error)), default=0.0)
            digits = _SIGNIFICANT_DIGITS
        decimals = digits - 1 - math.floor(math.log10(shown)) if shown else digits
        return MetricFormat(metric, min(max(decimals, 0), MAX_DECIMALS))

    @property
    def unit(self) -> str:
        """The unit with a space before it; empty for none."""
        return f" {self.metric.unit}" if self.metric.unit else ""

    @property
    def difference_unit(self) -> str:
        """The unit of differences with a space before it: percentages differ by points."""
        return " points" if self.metric.unit == "%" else self.unit

    def number(self, error: float) -> str:
        """The value that an error stands for, without its unit: ``2.8740``; ``diverged`` for one
        that is infinite."""
        if not math.isfinite(error):
            return "diverged"
        return self._rounded(self.metric.value(error))

    def value(self, error: float) -> str:
        """The value that an error stands for, with its unit: ``2.8740 nats``."""
        return f"{self.number(error)}{self.unit}" if math.isfinite(error) else self.number(error)

    def mean(self, sample: Sample) -> str:
        """A mean with its standard deviation, without the unit: ``3.21 ± 0.30``, or a dash."""
        if sample.mean is None:
            return "–"
        spread = "" if sample.sd is None else f" ± {self._rounded(sample.sd)}"
        return f"{self.number(sample.mean)}{spread}"

    def sample(self, sample: Sample) -> str:
        """A mean with its standard deviation over the seeds, ``3.21 ± 0.30 %``, or a dash."""
        return self.mean(sample) if sample.mean is None else f"{self.mean(sample)}{self.unit}"

    def difference(self, value: float) -> str:
        """A difference, without its unit; with as many decimals as show that it is not zero."""
        text = self._rounded(value)
        return text if float(text) or not value else f"{value:.1g}"

    def signed(self, value: float) -> str:
        """A difference with its sign, also if that is a plus, without its unit."""
        text = self.difference(value)
        return text if text.startswith("-") else f"+{text}"

    def span(self, interval: tuple[float, float]) -> str:
        """The interval of a difference without its unit, such as ``0.50 to 1.40``."""
        return f"{self.difference(interval[0])} to {self.difference(interval[1])}"

    def size(self, value: float) -> str:
        """How large a difference is, with its unit: ``0.95 points``."""
        return f"{self.difference(abs(value))}{self.difference_unit}"

    def change(self, value: float) -> str:
        """A difference with its sign and unit: ``+0.95 points``."""
        return f"{self.signed(value)}{self.difference_unit}"

    def _rounded(self, value: float) -> str:
        text = f"{value:.{self.decimals}f}"
        return text.removeprefix("-") if not float(text) else text
