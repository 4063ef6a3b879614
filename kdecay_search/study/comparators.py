"""The schedules that a confirmation compares the found one with.

Raising k raises the mean of the LR, so a comparison with k = 1 alone cannot tell whether the
shape helped or the amount. Hence the area-matched comparator: the original shape with lr_max raised
until its mean LR is the found schedule's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import BASELINES, WarmupBaseline
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.study.spec import StudySpec

FOUND, ORIGINAL, AREA_MATCHED = "found", "original", "area-matched"
COMPARATORS = (FOUND, ORIGINAL, AREA_MATCHED, *BASELINES)
"""All names, in an order that must not change: a candidate's number is its place here."""
BASELINE_KS = (1.0,)
"""The original schedule, which every study is measured against."""


def comparators_of(spec: StudySpec) -> tuple[str, ...]:
    """What the study's confirmation trains: the found schedule first, then the original."""
    matched = (AREA_MATCHED,) if spec.confirm.area_matched else ()
    return (FOUND, ORIGINAL, *matched, *spec.confirm.rivals)


def level_of(comparator: str, found: float | None, original: float | None) -> float | None:
    """The lr_max that a comparator is made from, of those that a search found for its best schedule
    and for the original: the found schedule's where it decides, else the original's. Rivals get
    that without a tuning of their own. None where the level was not searched."""
    return found if comparator in (FOUND, AREA_MATCHED) else original


def schedule_of(
    spec: StudySpec,
    comparator: str | None,
    ks: Sequence[float],
    steps_per_epoch: float = 1,
    lr_max: float | None = None,
) -> Schedule:
    """The schedule ``comparator`` of a study that found ``ks``; None is a search's own, ``ks``.
    ``lr_max``: of :func:`level_of`; None is the study file's."""
    found = spec.schedule_for(ks, steps_per_epoch, lr_max)
    if comparator in (None, FOUND):
        return found
    original = spec.schedule_for(BASELINE_KS, steps_per_epoch, lr_max)
    if comparator == ORIGINAL:
        return original
    if comparator == AREA_MATCHED:
        return area_matched(original, found, round(spec.task.epochs * steps_per_epoch))
    rival, part = BASELINES[comparator], spec.schedule
    rates: dict[str, Any] = {"lr_max": original.lr_max, "lr_min": part.lr_min}
    if issubclass(rival, WarmupBaseline):
        rates["warmup_steps"] = original.warmup_steps
    return rival(**rates)


def area_matched(original: KDecaySchedule, found: Schedule, total_steps: int) -> KDecaySchedule:
    """``original`` with the lr_max that gives it the mean LR of ``found``.

    Its mean is linear in lr_max: two points of that line are enough. Both begin with the same
    warm-up, in updates.
    """
    at = original.area(total_steps)
    slope = replace(original, lr_max=2 * original.lr_max).area(total_steps) - at
    wanted = original.lr_max * (1 + (found.area(total_steps) - at) / slope)
    return replace(original, lr_max=max(wanted, original.lr_min))
