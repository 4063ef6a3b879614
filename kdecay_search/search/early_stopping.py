"""When a run may end early.

Large k keeps the LR high for longer, so the raw validation error ranks schedules backwards until
the last epochs; the error of averaged weights does not. What is reported to Optuna, and judged
here, is the averaged error (docs/pruning.md has the measurements behind each rule):

- only runs of the same seed are compared, at equal epochs;
- a candidate ends only if it is behind by a smooth curve over log k (and log lr_max, where that is
  searched) through all of them, so that its neighbours vouch for it, and by its own curve, too;
- at share u of training, the better 1 - u of all candidates go on: a run ends once so many are
  better, whenever they come;
- never before ``first_share``, nor after ``LAST_SHARE``, when there is little left to save;
- ``keep_at_least`` candidates stay; the baseline k = 1 always does, at every level;
- only on the first seed: further seeds are given only to those that may win, and those runs count;
- a run without averaged error is not judged, nor is another compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdecay_search.search.selection import smooth_means
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunRequest

FIRST_SEED = 0
LAST_SHARE = 0.75
DECISIONS = 12
"""How often a training of any length is looked at, evenly spaced."""
_SLACK = 1e-9


@dataclass(frozen=True)
class Curve:
    """What is known of a run on the first seed: averaged error (%) after each finished epoch."""

    point: Candidate
    averaged: Sequence[float]
    protected: bool = False
    pruned: bool = False


def may_prune(spec: StudySpec, request: RunRequest, epochs_done: int) -> bool:
    """Whether the pruner is worth asking, judged without a look at other runs."""
    is_open = spec.pruning.enabled and not request.protected and request.key.seed == FIRST_SEED
    return is_open and is_decision(spec, epochs_done)


def is_decision(spec: StudySpec, epochs_done: int) -> bool:
    """Whether runs are compared after so many epochs."""
    total = spec.task.epochs
    share = epochs_done / total
    if not spec.pruning.first_share - _SLACK <= share <= LAST_SHARE + _SLACK:
        return False
    before = (epochs_done - 1) / total
    return math.floor(share * DECISIONS + _SLACK) != math.floor(before * DECISIONS + _SLACK)


def is_worse(spec: StudySpec, own: Curve, curves: Sequence[Curve], candidates: int) -> bool:
    """Whether ``own``, which has just finished an epoch, should end.

    ``curves``: the first seed's runs of the stage, ``own`` among them. ``candidates``: how many
    the stage has that may be pruned, those included that have not started, or that the first seed
    leaves out.
    """
    keep = spec.pruning.keep_at_least
    if candidates - sum(curve.pruned for curve in curves) <= keep:
        return False
    epochs_done = len(own.averaged)
    there = [curve for curve in curves if len(curve.averaged) >= epochs_done]
    rivals = [curve.point for curve in there if not curve.protected]
    alone = {curve.point: curve.averaged[epochs_done - 1] for curve in there}
    go_on = math.ceil((1 - epochs_done / spec.task.epochs) * candidates - _SLACK)

    def is_behind(errors: Mapping[Candidate, float]) -> bool:
        return sum(errors[p] < errors[own.point] for p in rivals) >= max(keep, go_on)

    if not is_behind(alone):  # which is known at once, and the curve is not
        return False
    results = [(point, FIRST_SEED, error) for point, error in alone.items()]
    return is_behind(smooth_means(sorted(alone), results))
