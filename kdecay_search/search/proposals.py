"""New candidates for a joint search: where they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdecay_search.search.policy import Policy
from kdecay_search.search.results import Array
from kdecay_search.study.axis import Axis
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.space import CAPS, LEVEL_CAP, ScheduleSpace, Subspace

USUAL_DECAY_SHARE = 0.2
"""Length of the first cooldown that is tried, which is what people usually take."""


def as_in_file(subspace: Subspace, original: Candidate) -> Candidate:
    """A baseline at the level and floor of the study file's own schedule and with its usual values
    of the user's own parameters, or as near to these as its ranges allow."""
    wanted: dict[str, Any] = {
        "lr_max": original.lr_max or 0.0,
        "lr_min": original.lr_min or 0.0,
        "decay_share": USUAL_DECAY_SHARE,
        **dict(original.args),
    }
    axes = {
        name: Axis((axis.nearest(wanted[name]),)) if name in wanted else axis
        for name, axis in subspace.axes.items()
    }
    fixed = replace(subspace, axes=axes)
    return fixed.at([0.0] * len(fixed.searched))


def spread(
    subspaces: Sequence[Subspace], count: int, seed: int = 0, first: int = 0
) -> list[Candidate]:
    """About ``count`` candidates, evenly spread over each subspace; more over one with more axes.

    Args:
        subspaces: Where to spread them.
        count: Number of candidates.
        seed: Shifts all of them.
        first: Place in the sequence to begin at.
    """
    sizes = [1 + len(subspace.searched) for subspace in subspaces]
    return [
        subspace.at(shares)
        for subspace, size in zip(subspaces, sizes, strict=True)
        for shares in _evenly(
            len(subspace.searched), max(1, round(count * size / sum(sizes))), seed, first
        ).tolist()
    ]


def nearby(
    points: Sequence[Candidate], subspaces: Sequence[Subspace], count: int, seed: int = 0
) -> list[Candidate]:
    """Candidates around each of several: ``count`` for each, at growing distances up to 0.3 of the
    axes' widths."""
    found = []
    distances = np.geomspace(0.03, 0.3, count)[:, None]
    for rank, point in enumerate(points):
        for subspace in subspaces:
            if subspace.family == point.family:
                centre = np.array(subspace.shares(point))
                steps = 2 * _evenly(len(centre), count, seed, count * rank) - 1
                shares = np.clip(centre + distances * steps, 0.0, 1.0)
                found += [subspace.at(row) for row in shares.tolist()]
    return found


def widened(subspace: Subspace, point: Candidate, policy: Policy) -> Subspace:
    """A family's space with every range widened at whose edge a candidate lies, up to its cap."""
    axes = dict(subspace.axes)
    for name in subspace.searched:
        wider: Axis | None = None if axes[name].scale is None else axes[name]
        while wider is not None:
            axes[name] = wider
            share = wider.share(point.value(name))
            if policy.edge < share < 1 - policy.edge:
                break
            caps = _caps(name, subspace.axes[name])
            wider = wider.widened(*caps, policy.widening, share > 0.5)  # noqa: PLR2004
    return replace(subspace, axes=axes)


def edges(subspace: Subspace, point: Candidate, policy: Policy) -> tuple[str, ...]:
    """Names of the axes of a widened space at whose edge a candidate still lies. No floor and no
    warm-up are no edges, since nothing lies beyond them."""
    found = []
    for name in subspace.searched:
        axis, value = subspace.axes[name], point.value(name)
        share = axis.share(value)
        is_inner = policy.edge < share < 1 - policy.edge
        is_natural = axis.low == 0.0 and share <= policy.edge
        if axis.scale is not None and not is_inner and not is_natural:
            found.append(name)
    return tuple(found)


def further_terms(
    schedules: ScheduleSpace, point: Candidate, least_step: float
) -> ScheduleSpace | None:
    """The space of a further term: every k above the last, with all else fixed.

    Args:
        schedules: What the first stage searched.
        point: The schedule so far, with its last term.
        least_step: Least distance between two terms.

    Returns:
        The space; None if the schedule has no terms or no larger one is left.
    """
    if point.k is None or point.family is None:
        return None
    low, cap = point.k + least_step, CAPS["k"][1]
    if low >= cap:
        return None
    top = max(family.axes["k"].high for family in schedules.families if "k" in family.axes)
    fixed = {
        name: Axis((value,))
        for name, value in point.settings.items()
        if name not in ("k", "family")
    }
    k = Axis((low, min(cap, max(top, 4 * low))), "log", (low, cap))
    return ScheduleSpace((Subspace(point.family, point.family, {"k": k, **fixed}),), ())


def _caps(name: str, axis: Axis) -> tuple[float, float]:
    """The smallest low and the largest high that a range may be widened to."""
    if axis.bounds is not None:
        return axis.bounds
    if name != "lr_max":
        return CAPS[name]
    middle = math.sqrt(axis.low * axis.high) if axis.low > 0 else axis.high
    return middle / LEVEL_CAP, middle * LEVEL_CAP


def _evenly(dimensions: int, count: int, seed: int, first: int) -> Array:
    """Evenly spread points in the unit cube, (count, dimensions): the additive recurrence with the
    powers of the generalised golden ratio (Roberts, "The unreasonable effectiveness of
    quasirandom sequences", 2018)."""
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = ratio ** -np.arange(1.0, dimensions + 1)
    places = np.arange(first + 1, first + count + 1)[:, None]
    points: Array = (0.5 + 0.31 * seed + places * steps) % 1.0
    return points
