"""The parameters of a trial, as Optuna, its samplers and its dashboard know them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdecay_search.storage import attributes as attribute
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import COMPARATORS
from kdecay_search.study.own_parameters import OwnAxis
from kdecay_search.study.space import AXES, CAPS, LEVEL_CAP, SEARCHED_FAMILIES, ScheduleSpace
from kdecay_search.study.trials import RunRequest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution, FloatDistribution

NAMES = dict(zip(AXES, AXES, strict=True)) | {
    "lr_min": attribute.LR_MIN_SHARE,
    "warmup": attribute.WARMUP_SHARE,
}
"""Name of the parameter for each number of a whole candidate. What is a share says so, since users
know lr_min and the warm-up in other units."""
LOGARITHMIC = ("k", "power", "decay_share", "lr_max")
"""Numbers of a whole candidate whose range is logarithmic."""


def parameters(request: RunRequest) -> dict[str, Any]:
    """What Optuna shows as the parameters of a run; nothing before the sampler has chosen them.

    Those of a whole candidate are the ones that its family has.
    """
    if request.comparator is not None:
        return {attribute.SCHEDULE: request.comparator}
    if request.point is not None:
        stated = request.point.stated()
        numbers = {NAMES[name]: stated[name] for name in AXES if name in stated}
        return {attribute.FAMILY: request.point.family, **numbers, **dict(request.point.args)}
    if request.k is None:
        return {}
    return {attribute.K: request.k} | ({attribute.LR_MAX: request.lr_max} if request.levels else {})


def distributions(
    request: RunRequest, space: ScheduleSpace | None = None
) -> dict[str, BaseDistribution]:
    """The search space of a run's stage, by parameter.

    Args:
        request: The run.
        space: All that the study may try, if it searches whole schedules.
    """
    from optuna.distributions import CategoricalDistribution  # noqa: PLC0415 - loads slowly

    if request.comparator is not None:
        return {attribute.SCHEDULE: CategoricalDistribution(COMPARATORS)}
    if request.point is not None:
        families = CategoricalDistribution(SEARCHED_FAMILIES)
        ranges = _ranges(request.point.stated(), space)
        return {attribute.FAMILY: families, **ranges, **_own_ranges(request.point, space)}
    spaces: dict[str, BaseDistribution] = {attribute.K: k_range(request)}
    if request.levels:
        spaces[attribute.LR_MAX] = CategoricalDistribution(request.levels)
    return spaces


def _ranges(
    stated: Mapping[str, Any], space: ScheduleSpace | None
) -> Mapping[str, FloatDistribution]:
    """The range of each number that a whole candidate has, as wide as it may ever become.

    It is the same for all candidates of a study, because Optuna compares parameters only between
    trials that have the same distribution.
    """
    from optuna.distributions import FloatDistribution  # noqa: PLC0415 - loads slowly

    subspaces = (*space.families, *space.baselines) if space else ()
    ranges = {}
    for name in AXES:
        if name in stated:
            axes = [each.axes[name] for each in subspaces if name in each.axes]
            ends = [stated[name], *(end for axis in axes for end in (axis.low, axis.high))]
            ends += CAPS.get(name, ())
            if name == "lr_max" and axes:
                middle = (min(a.low for a in axes) * max(a.high for a in axes)) ** 0.5
                ends += [middle / LEVEL_CAP, middle * LEVEL_CAP]
            log = name in LOGARITHMIC
            ranges[NAMES[name]] = FloatDistribution(min(ends), max(ends), log=log)
    return ranges


def _own_ranges(point: Candidate, space: ScheduleSpace | None) -> Mapping[str, BaseDistribution]:
    """The range of each of the user's own parameters that a whole candidate has."""
    axes = {axis.name: axis for axis in space.own} if space else {}
    return {name: _own_range(axes.get(name, OwnAxis((value,)))) for name, value in point.args}


def _own_range(axis: OwnAxis) -> BaseDistribution:
    """A parameter of the user's own, as Optuna knows it."""
    from optuna.distributions import (  # noqa: PLC0415 - loads slowly
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if axis.scale is None:
        return CategoricalDistribution(axis.values)
    low, high = axis.values
    if axis.is_integer:
        return IntDistribution(low, high, log=axis.scale == "log")
    return FloatDistribution(low, high, log=axis.scale == "log")


def k_range(request: RunRequest) -> FloatDistribution:
    """The range of k, the request's own included. It is logarithmic, since neighbours in log k
    behave alike."""
    from optuna.distributions import FloatDistribution  # noqa: PLC0415 - loads slowly

    low, high = request.bounds
    if request.k is not None:
        low, high = min(low, request.k), max(high, request.k)
    return FloatDistribution(low, high, log=True)


def stored_parameters(
    given: Mapping[str, Any], spaces: Mapping[str, BaseDistribution]
) -> list[tuple[str, float, str]]:
    """Name, value and search space of each parameter, as Optuna's tables hold them."""
    from optuna.distributions import distribution_to_json  # noqa: PLC0415 - loads slowly

    return [
        (name, spaces[name].to_internal_repr(value), distribution_to_json(spaces[name]))
        for name, value in given.items()
    ]
