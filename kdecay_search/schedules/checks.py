"""Checks of a schedule's parameters: each returns the value, or raises with one line that says what
is wrong and what would be right."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterable
from itertools import pairwise
from numbers import Real

from kdecay_search.errors import InvalidSchedule

SMALLEST_SHARE = 1e-7
"""Smallest share of a training that a schedule's part may take: one update of ten million, the
longest training that the tests cover."""


def number(name: str, value: object, *, above: float = -math.inf) -> float:
    """Check one number.

    Args:
        name: The parameter's name, for the error.
        value: Any real number; ``bool`` is not one.
        above: Bound that the number must exceed.

    Returns:
        The value as a float.

    Raises:
        InvalidSchedule: The value is not a finite number, or not above the bound.
    """
    given = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            given = float(value)
    if not math.isfinite(given):
        raise InvalidSchedule(f"{name}={value!r} must be a finite number; give one such as 0.5")
    if not given > above:
        raise InvalidSchedule(f"{name}={value!r} must be above {above:g}; raise it")
    return given


def in_range(name: str, value: object, low: float, high: float) -> float:
    """Check that a number lies in [``low``, ``high``], and return it as a float.

    Raises:
        InvalidSchedule: It is no finite number, or lies outside.
    """
    given = number(name, value)
    if not low <= given <= high:
        fix = "raise it" if given < low else "lower it"
        raise InvalidSchedule(f"{name}={value!r} must be from {low:g} to {high:g}; {fix}")
    return given


def share(name: str, value: object) -> float:
    """Check that a number is a share of the updates, above 0 and at most 1; return it as a float.

    Raises:
        InvalidSchedule: It is not.
    """
    return in_range(name, value, SMALLEST_SHARE, 1.0)


def increasing_numbers(name: str, values: object, *, above: float) -> tuple[float, ...]:
    """Check one or more numbers that strictly increase, and return them as floats.

    Raises:
        InvalidSchedule: There is none, one is not a finite number above ``above``, or they do not
            strictly increase.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidSchedule(f"{name}={values!r} must be a list of numbers; write [1.0] for one")
    given = tuple(values)
    if not given:
        raise InvalidSchedule(f"{name}={given!r} must hold at least one value; write [1.0] for one")
    checked = tuple(number(f"{name}[{i}]", value, above=above) for i, value in enumerate(given))
    if any(later <= earlier for earlier, later in pairwise(checked)):
        raise InvalidSchedule(
            f"{name}={checked!r} must strictly increase; sort it, each value once"
        )
    return checked


def one_of(name: str, value: object, known: Iterable[str]) -> None:
    """Check that a value is one of the known names.

    Raises:
        InvalidSchedule: It is not; the error suggests the nearest known name.
    """
    known = tuple(known)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else "choose one of them"
    raise InvalidSchedule(f"{name}={value!r} is not one of {', '.join(known)}; {fix}")
