"""An axis of a search space: what one parameter may be."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, cast

Scale = Literal["log", "linear"]
DIGITS = 3
"""Significant digits of a schedule's numbers."""


@dataclass(frozen=True)
class Axis:
    """What one parameter may be: a range, or a list of values; a single value is fixed."""

    values: tuple[float, ...]
    """Low and high of a range, or all values of a list."""
    scale: Scale | None = None
    """How a range is divided; None for a list."""
    bounds: tuple[float, float] | None = None
    """How far a range may be widened; None for :data:`kdecay_search.study.space.CAPS`."""

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to search."""
        return min(self.values) == max(self.values)

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)

    def at(self, share: float) -> float:
        """The value at a share of the way, from 0 to 1, rounded to :data:`DIGITS` digits."""
        if self.scale is None:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.scale == "log":
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def share(self, value: float) -> float:
        """How far along the way a value is; below 0 or above 1 outside the range."""
        if self.is_fixed:
            return 0.5
        if self.scale is None:
            places = [index for index, each in enumerate(self.values) if each <= value]
            return (len(places) - 0.5) / len(self.values)
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def nearest(self, value: float) -> float:
        """The value that is allowed and nearest to another."""
        if self.scale is None:
            return min(self.values, key=lambda each: abs(each - value))
        return min(max(value, self.low), self.high)

    def widened(self, lowest: float, highest: float, share: float, up: bool) -> Axis | None:
        """A range that is wider on one side.

        Args:
            lowest: Smallest low that is allowed.
            highest: Largest high that is allowed.
            share: By how much of its width the range grows.
            up: Whether it grows upwards.

        Returns:
            The range; None if it cannot grow.
        """
        if self.scale is None:
            return None
        low, high = self.low, self.high
        if self.scale == "log":
            step = (high / low) ** share
            low, high = (low, high * step) if up else (low / step, high)
        else:
            step = (high - low) * share
            low, high = (low, high + step) if up else (low - step, high)
        wider = replace(
            self, values=(max(low, min(lowest, self.low)), min(high, max(highest, self.high)))
        )
        return None if wider.values == self.values else wider


def axis_of(setting: object) -> Axis:
    """An axis from a study file's setting.

    Raises:
        ValueError: It is none; the text says what would be right.
    """
    if is_number(setting):
        return Axis((float(cast("float", setting)),))
    if isinstance(setting, Sequence) and not isinstance(setting, str) and setting:
        *numbers, last = setting
        if last in ("log", "linear") and len(numbers) == 2 and all(map(is_number, numbers)):  # noqa: PLR2004
            low, high = map(float, numbers)
            if last == "log" and not low > 0:
                raise ValueError("must begin above 0 to be logarithmic; or say 'linear'")
            if not low < high:
                raise ValueError("must rise from its first number to its second")
            return Axis((low, high), last)
        if all(map(is_number, setting)):
            values = tuple(map(float, setting))
            if any(later <= earlier for earlier, later in pairwise(values)):
                raise ValueError("must strictly increase; a range ends with 'log' or 'linear'")
            return Axis(values)
    raise ValueError(
        "must be a number, a list of numbers, or a range: [low, high, 'log'] or "
        "[low, high, 'linear']"
    )


def is_number(value: object) -> bool:
    """Whether a value is a number that is finite, also as a float."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(cast("float", value)) <= sys.float_info.max
