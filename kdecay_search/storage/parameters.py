"""The parameters of a trial, as Optuna, its samplers and its dashboard know them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdecay_search.storage import attributes as attribute
from kdecay_search.study.comparators import COMPARATORS
from kdecay_search.study.trials import RunRequest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution, FloatDistribution


def parameters(request: RunRequest) -> dict[str, Any]:
    """What Optuna shows as the parameters of a run; nothing before the sampler has chosen them."""
    if request.comparator is not None:
        return {attribute.SCHEDULE: request.comparator}
    if request.k is None:
        return {}
    return {attribute.K: request.k} | ({attribute.LR_MAX: request.lr_max} if request.levels else {})


def distributions(request: RunRequest) -> dict[str, BaseDistribution]:
    """The search space of a run's stage, by parameter."""
    from optuna.distributions import CategoricalDistribution  # noqa: PLC0415 - loads slowly

    if request.comparator is not None:
        return {attribute.SCHEDULE: CategoricalDistribution(COMPARATORS)}
    spaces: dict[str, BaseDistribution] = {attribute.K: k_range(request)}
    if request.levels:
        spaces[attribute.LR_MAX] = CategoricalDistribution(request.levels)
    return spaces


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
