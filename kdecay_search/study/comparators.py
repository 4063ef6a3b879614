"""The schedules that a confirmation compares the found one with.

Raising k raises the mean learning rate, so a comparison with k = 1 alone cannot show whether the
shape helped or the amount. Hence the area-matched comparator: the original shape, with lr_max
raised until its mean rate is the found schedule's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import BASELINES, WarmupBaseline
from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec

FOUND, ORIGINAL, AREA_MATCHED = "found", "original", "area-matched"
GIVEN = "given"
"""The schedule that the study file states, with k = 1, where a search of whole schedules has tuned
the original."""
COMPARATORS = (FOUND, ORIGINAL, AREA_MATCHED, *BASELINES, GIVEN)
"""Names of all schedules that a confirmation may train. The order must not change: a candidate's
number is its place here."""
BASELINE_OF_TUNED = {
    "linear": "linear",
    "cosine": "cosine",
    "exponential": "exponential",
    "cooldown": "warmup-stable-decay",
}
"""The comparator of each usual schedule that a search of whole schedules may tune."""
BASELINE_KS = (1.0,)
"""Terms of the original schedule, k = 1, which every study is measured against."""


def comparators_of(spec: StudySpec) -> tuple[str, ...]:
    """Names of what the study's confirmation trains: the found schedule, the original, the rest."""
    matched = (AREA_MATCHED,) if spec.confirm.area_matched else ()
    return (FOUND, ORIGINAL, *matched, *spec.confirm.baselines)


def lr_max_of(comparator: str, found: float | None, original: float | None) -> float | None:
    """The learning-rate level that a comparator is made from.

    Args:
        comparator: One of :data:`COMPARATORS`.
        found: Level that the search found for its best schedule; None if it was not searched.
        original: Level that the search found for the original; None if it was not searched.

    Returns:
        ``found`` for the found schedule and for the area-matched one, whose mean follows from it;
        else ``original``. Baselines get that level too, without a tuning of their own.
    """
    return found if comparator in (FOUND, AREA_MATCHED) else original


def schedule_of(
    spec: StudySpec,
    comparator: str | None,
    ks: Sequence[float],
    steps_per_epoch: float = 1,
    lr_max: float | None = None,
    point: Candidate | None = None,
) -> Schedule:
    """The schedule that a run trains with.

    Args:
        spec: The study.
        comparator: One of :data:`COMPARATORS`; None for a run of the search, which trains ``ks``.
        ks: Terms of the run, or in a confirmation those that the search found.
        steps_per_epoch: Optimizer updates per epoch, for the warm-up.
        lr_max: Learning-rate level by :func:`lr_max_of`; None for the study file's.
        point: The whole schedule, if the study searches these; its term is the last of ``ks``.
    """
    if point is not None and comparator != AREA_MATCHED:
        earlier = ks[:-1] if point.k is not None and comparator in (None, FOUND) else ()
        return spec.candidate_schedule(point, earlier, steps_per_epoch)
    found = spec.schedule_for(ks, steps_per_epoch, lr_max)
    if comparator in (None, FOUND):
        return found
    original = spec.schedule_for(BASELINE_KS, steps_per_epoch, lr_max)
    if comparator in (ORIGINAL, GIVEN):
        return original
    if comparator == AREA_MATCHED:
        return area_matched(original, found, round(spec.task.length.updates(steps_per_epoch)))
    baseline = BASELINES[comparator]
    values: dict[str, Any] = {"lr_max": original.lr_max, "lr_min": original.lr_min}
    if issubclass(baseline, WarmupBaseline):
        values["warmup_steps"] = original.warmup_steps
    return baseline(**values)


def area_matched(original: KDecaySchedule, found: Schedule, total_steps: int) -> KDecaySchedule:
    """The original schedule with the lr_max that gives it the mean learning rate of another.

    Args:
        original: The schedule whose shape is kept.
        found: The schedule whose mean rate is matched. Both begin with the same warm-up.
        total_steps: Optimizer updates of the training.

    Returns:
        ``original`` with another lr_max, which is not below its lr_min.
    """
    # The mean is linear in lr_max, so two points of that line are enough.
    at = original.area(total_steps)
    slope = replace(original, lr_max=2 * original.lr_max).area(total_steps) - at
    wanted = original.lr_max * (1 + (found.area(total_steps) - at) / slope)
    return replace(original, lr_max=max(wanted, original.lr_min))
