"""Where a candidate lies: the coordinates in which neighbours behave alike.

On a grid these are log k and, if it varies, log lr_max. Whole schedules of different families have
different parameters, so their shapes are compared instead, which lets every family's runs speak for
the others. Let u_q be the share of the training after which the rate has fallen to the share q of
its range, and

    κ_q = log(log(1 − q) / log(u_q)),

the log k of the schedule 1 − u^k that is there at that time. *Lateness* is κ at q = 1/2, and
*sharpness* is κ at 0.9 less κ at 0.25. For the polynomial family with N = 1 these are log k and 0,
and every family has a closed form. The floor and the warm-up enter by the logarithm of their shares
plus 0.005, since little of either differs little from none. A parameter of the user's own enters by
how far along its range, or its ascending list, a value is; values without an order all lie at a
distance of one from each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import count, product

import numpy as np

from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.results import Array
from kdecay_search.study.candidate import COOLDOWNS, LINEAR_COOLDOWN, Candidate
from kdecay_search.study.own_parameters import OwnAxis

_SMALL_SHARE = 0.005
_SAME = 1e-9
"""Difference below which candidates do not differ in a coordinate."""


def coordinates(
    points: Sequence[Candidate], policy: Policy = POLICY
) -> list[tuple[Array, tuple[float, ...]]]:
    """The coordinates of K candidates, and the length scales to average over in each.

    Returns:
        For each coordinate in which the candidates differ, but the first in any case: values (K,)
        and length scales.
    """
    if not any(point.is_whole for point in points):
        columns = [[point.k or 1.0 for point in points]]
        levels = [point.lr_max for point in points if point.lr_max is not None]
        if len(set(levels)) > 1:
            columns.append(levels)
        scales = (policy.k_lengths, policy.lr_max_lengths)
        return [(np.log(np.array(c, float)), s) for c, s in zip(columns, scales, strict=False)]
    table = np.array([_of_schedule(point) for point in points])
    scales_of_whole = (
        policy.lateness_lengths,
        policy.sharpness_lengths,
        policy.level_lengths,
        policy.floor_lengths,
        policy.floor_lengths,
    )
    every: list[tuple[Array, tuple[float, ...]]] = [*zip(table.T, scales_of_whole, strict=True)]
    every += [column for axis in policy.own for column in _of_own(axis, points, policy)]
    return [
        (column, scale)
        for index, (column, scale) in enumerate(every)
        if index == 0 or np.ptp(column) > _SAME
    ]


def combinations(
    scales: Iterable[tuple[float, ...]], policy: Policy = POLICY
) -> list[tuple[float, ...]]:
    """Combinations of length scales, spread evenly if there are more than ``policy.max_lengths``.

    Args:
        scales: The length scales of each coordinate.
        policy: Its ``max_lengths`` is used.
    """
    every = list(product(*scales))
    least = math.ceil(len(every) / policy.max_lengths)
    # A step without a common divisor with their number meets every scale of every coordinate.
    step = next(step for step in count(least) if math.gcd(step, len(every)) == 1)
    return every[::step]


def _of_own(
    axis: OwnAxis, points: Sequence[Candidate], policy: Policy
) -> list[tuple[Array, tuple[float, ...]]]:
    """The coordinates of a parameter of the user's own, and their length scales."""
    values = [point.value(axis.name) for point in points]
    if not axis.is_category:
        return [(np.array([axis.share(value) for value in values]), policy.own_lengths)]
    root = math.sqrt(0.5)  # two values differ in two of these coordinates
    return [
        (np.array([root * (value == each) for value in values]), (policy.own_distance,))
        for each in axis.values
    ]


def _of_schedule(point: Candidate) -> tuple[float, ...]:
    early, middle, late = (_kappa(point, q) for q in (0.9, 0.5, 0.25))
    return (
        middle,
        early - late,
        math.log(point.lr_max or 1.0),
        math.log((point.lr_min or 0.0) + _SMALL_SHARE),
        math.log((point.warmup or 0.0) + _SMALL_SHARE),
    )


def _kappa(point: Candidate, q: float) -> float:
    """κ_q, in closed form."""
    if point.family in COOLDOWNS:
        v = 1 - q if point.family == LINEAR_COOLDOWN else (1 - q) ** 2
        log_time = math.log1p((point.decay_share or 1.0) * (v - 1))
        return math.log(math.log(1 - q) / log_time)
    if point.family == "cosine":
        phi = math.acos(2 * q - 1) / math.pi
    elif point.family == "exponential":
        phi = 1 - math.log1p(q * math.expm1(1.0))
    else:
        phi = 1 - q ** (1 / (point.power or 1.0))
    return math.log((point.k or 1.0) * math.log(1 - q) / math.log(phi))
