"""The rules by which runs ended in mid-training before they could be paused, to compare with.

Runs of the first seed are compared by their averaged errors after equal numbers of epochs. A run
ends if it is behind by its own error and by a smooth curve over log k through all of them. At share
u of the training, the better 1 - u of all candidates go on. docs/tried.md has what these rules came
from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdecay_search.search.coordinates import coordinates
from kdecay_search.search.gaussian_process import Contrasts, GaussianProcess
from kdecay_search.search.results import Result, Results, blow_up_limit
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_SEED, RunRequest

LOOKS = 12
"""Number of evenly spaced moments of a training at which its run was compared."""
FIRST_SHARE, LAST_LOOK_SHARE = 0.5, 0.75
"""Shares of the training before and after which no run was ended."""
KEEP_AT_LEAST = 6
"""Candidates, besides the original, that ran to the end on the first seed."""
LENGTH, SIGNAL, NUGGET = 1.0, 1.5, 0.5
"""Length scale of the smooth curve, its standard deviation and that of a candidate's own deviation,
the last two in units of the noise's."""
_SLACK = 1e-9


@dataclass(frozen=True)
class Curve:
    """What is known of a run on the first seed."""

    point: Candidate
    """The run's candidate."""
    averaged: Sequence[float]
    """Error of the averaged weights after each report; infinite once the run has diverged."""
    protected: bool = False
    """Whether the run is never ended early: a baseline's."""
    pruned: bool = False
    """Whether the run was ended early."""


def may_stop(spec: StudySpec, request: RunRequest, epochs_done: int) -> bool:
    """Whether :func:`should_stop` is worth asking after so many epochs, judged without a look at
    other runs."""
    is_open = spec.pruning.enabled and not request.protected and request.key.seed == FIRST_SEED
    return is_open and _is_compared(spec, epochs_done)


def _is_compared(spec: StudySpec, epochs_done: int) -> bool:
    total = spec.task.length.reports
    share = epochs_done / total
    if not FIRST_SHARE - _SLACK <= share <= LAST_LOOK_SHARE + _SLACK:
        return False
    before = (epochs_done - 1) / total
    looks = LOOKS
    return math.floor(share * looks + _SLACK) != math.floor(before * looks + _SLACK)


def should_stop(
    spec: StudySpec,
    own: Curve,
    curves: Sequence[Curve],
    candidates: int,
) -> bool:
    """Whether a run that has just finished an epoch should end.

    Args:
        spec: The study.
        own: The run.
        curves: The first seed's runs of the stage, ``own`` among them.
        candidates: Number of the stage's candidates that may be ended early, including those that
            have not started or that the first seed leaves out.
    """
    keep = KEEP_AT_LEAST
    if candidates - sum(curve.pruned for curve in curves) <= keep:
        return False
    epochs_done = len(own.averaged)
    there = [curve for curve in curves if len(curve.averaged) >= epochs_done]
    others = [curve.point for curve in there if not curve.protected]
    alone = {curve.point: curve.averaged[epochs_done - 1] for curve in there}
    staying = math.ceil((1 - epochs_done / spec.task.length.reports) * candidates - _SLACK)

    def is_behind(errors: Mapping[Candidate, float]) -> bool:
        return sum(errors[p] < errors[own.point] for p in others) >= max(keep, staying)

    if not is_behind(alone):  # which is known at once, and the smooth curve is not
        return False
    # What has diverged tells nothing about its neighbours, and would bend the curve beyond use.
    limit = blow_up_limit(alone.values())
    usual = {p: error for p, error in alone.items() if math.isfinite(error) and error <= limit}
    if own.point not in usual:
        return True
    results = [(point, FIRST_SEED, error) for point, error in usual.items()]
    return is_behind(dict.fromkeys(alone, math.inf) | _smooth_means(sorted(usual), results))


def _smooth_means(points: Sequence[Candidate], results: Sequence[Result]) -> dict[Candidate, float]:
    """Smooth errors of ``points`` in units of the results' spread, by one fixed curve."""
    contrasts = Contrasts.of(points, Results.of(results).standardised())
    size, nugget = np.array([SIGNAL]), np.array([NUGGET])
    values = np.array([column for column, _ in coordinates(points)])
    model = GaussianProcess.fit(values, contrasts, (LENGTH,) * len(values), size, nugget)
    return dict(zip(points, model.means[0].tolist(), strict=True))
