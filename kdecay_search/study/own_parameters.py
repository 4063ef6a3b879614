"""Parameters of the user's own code that a search tunes together with the schedule.

A study file states them in ``[search.space]`` beside the schedule's: ``weight_decay = [1e-5, 1e-2,
"log"]``, ``batch_size = [64, 128, 256]``, ``optimizer = ["adamw", "lion"]``, ``nesterov = [true,
false]``. A range whose two ends are integers holds integers.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdecay_search.study.axis import Axis, axis_of, is_number

MOST_SEARCHED = 8
"""Largest number of a study's own parameters that may vary."""
MOST_VALUES = 64
"""Largest number of values in a list."""
LONGEST_TEXT = 100
"""Largest number of characters in a name and in a text."""
LARGEST, SMALLEST = 1e100, 1e-100
"""Largest size of a number, and smallest low of a logarithmic range."""
STEPS = 1000
"""Number of steps, at least, into which a range is divided by the rounding of its values."""
OTHER_NAMES = {"lr": "lr_max", "learning_rate": "lr_max", "n": "power"}
"""What else people call the schedule's parameters, beside misspelling them."""
CLOSE = 0.62
"""Likeness, by :mod:`difflib`, from which on a name may be another one misspelled."""
FORMS = (
    "must be a number, a text, true or false, a list of such values, or a range: "
    "[low, high, 'log'] or [low, high, 'linear']"
)


@dataclass(frozen=True)
class OwnAxis(Axis):
    """What one parameter of the user's own may be. It is never widened: code may have limits."""

    values: tuple[Any, ...]
    """Low and high of a range, or all values of a list: numbers, texts, or true and false."""
    name: str = ""
    """Name of the parameter."""

    @property
    def is_category(self) -> bool:
        """Whether its values have no order: texts, or true and false."""
        return isinstance(self.values[0], str | bool)

    @property
    def is_integer(self) -> bool:
        """Whether it is a range of integers."""
        return self.scale is not None and all(type(value) is int for value in self.values)

    @property
    def _ends(self) -> tuple[float, float]:
        """Where the range begins and ends; each integer has as much room as another."""
        if not self.is_integer:
            return self.low, self.high
        low = self.low - 0.5
        return (max(low, 0.5) if self.scale == "log" else low), self.high + 0.5

    @property
    def usual(self) -> Any:
        """What is tried first, if the study file states no usual value: the middle, or the first of
        values without an order."""
        return self.values[0] if self.is_category else self.at(0.5)

    def at(self, share: float) -> Any:
        """The value at a share of the way, from 0 to 1; a range has :data:`STEPS` steps or more."""
        if self.scale is None:
            return super().at(share)
        low, high = self._ends
        if self.scale == "log":
            value = low * (high / low) ** share
            width = value * math.log(high / low)
        else:
            value, width = low + (high - low) * share, high - low
        step = max(width / STEPS, 1.0 if self.is_integer else 0.0)
        value = round(value, -math.floor(math.log10(step)))
        value = min(max(value, self.low), self.high)
        return round(value) if self.is_integer else value

    def share(self, value: Any) -> float:
        """How far along the way a value is; in the middle, if it is not one of the axis."""
        if self.is_fixed or not self.allows(value):
            return 0.5
        if self.scale is None:
            return (self.values.index(value) + 0.5) / len(self.values)
        low, high = self._ends
        if self.scale == "log":
            return math.log(value / low) / math.log(high / low)
        return float((value - low) / (high - low))

    def allows(self, value: Any) -> bool:
        """Whether a value is one of the axis."""
        if self.scale is None:
            return value in self.values
        return is_number(value) and self.low <= value <= self.high

    def nearest(self, value: Any) -> Any:
        """The value of the axis that is nearest to another; :attr:`usual` if it has none of that
        kind."""
        if self.scale is None and value in self.values:
            return self.values[self.values.index(value)]
        if self.is_category or not is_number(value):
            return self.usual
        found = super().nearest(value)
        return round(found) if self.is_integer else found


def own_axis(name: str, setting: object) -> OwnAxis:
    """The axis of a parameter of the user's own, from a study file's setting.

    Raises:
        ValueError: It is none; the text says what would be right.
    """
    if is_own_value(setting):
        return OwnAxis((setting,), name=name)
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        raise ValueError(FORMS)
    if not setting:
        raise ValueError(f"must not be empty; it {FORMS}")
    if len(setting) > MOST_VALUES:
        raise ValueError(f"must hold at most {MOST_VALUES} values; a range ends with 'log'")
    if not all(map(is_own_value, setting)):
        raise ValueError(
            f"must hold numbers of at most {LARGEST:g}, printable texts of at most {LONGEST_TEXT} "
            "characters, or true and false"
        )
    *numbers, last = setting
    if last in ("log", "linear") and numbers and all(map(is_number, numbers)):
        return OwnAxis(_ends(setting), last, (setting[0], setting[1]), name)
    if len({str if isinstance(v, str) else isinstance(v, bool) for v in setting}) > 1:
        raise ValueError("must hold values of one kind: numbers, texts, or true and false")
    if all(map(is_number, setting)):
        axis_of(setting)
    elif len(set(setting)) < len(setting):
        raise ValueError("must name each value once")
    return OwnAxis(tuple(setting), name=name)


def _ends(setting: Sequence[Any]) -> tuple[Any, Any]:
    """Low and high of a range: two integers, or two floats."""
    if len(setting) != 3:  # noqa: PLR2004
        raise ValueError("must have two ends: [low, high, 'log'] or [low, high, 'linear']")
    axis_of(setting)
    low, high, scale = setting
    if scale == "log" and low < SMALLEST:
        raise ValueError(f"must begin at {SMALLEST:g} or above to be logarithmic")
    if type(low) is not int or type(high) is not int:
        return float(low), float(high)
    if high == low + 1:
        raise ValueError(
            f"holds two integers; write [{low}, {high}] for these two, or "
            f"[{low}.0, {high}.0, {scale!r}] for all numbers between them"
        )
    return low, high


def is_own_name(name: object) -> bool:
    """Whether a parameter may have this name: an identifier, as for a variable of Python's."""
    return isinstance(name, str) and name.isidentifier() and len(name) <= LONGEST_TEXT


def is_own_value(value: object) -> bool:
    """Whether a parameter may have this value: a number, a text, true or false."""
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and value.isprintable()
    return isinstance(value, bool) or (is_number(value) and abs(value) <= LARGEST)  # type: ignore[arg-type]


def own_text(value: Any) -> str:
    """A value as text, such as ``0.001``, ``true`` or ``adamw``: exact, and as in a study file."""
    return value if isinstance(value, str) else json.dumps(value)


def meant_by(name: str, known: Collection[str]) -> str | None:
    """The known parameter that a name is probably meant to be; None if it is close to none."""
    lower = name.lower()
    if lower in OTHER_NAMES:
        return OTHER_NAMES[lower]
    reordered = [each for each in known if sorted(each.split("_")) == sorted(lower.split("_"))]
    close = difflib.get_close_matches(lower, known, n=1, cutoff=CLOSE)
    return next(iter([*reordered, *close]), None)


def own_axes(settings: Mapping[str, Any]) -> dict[str, OwnAxis]:
    """The axes of a study's own parameters, by name."""
    return {name: own_axis(name, setting) for name, setting in settings.items()}
