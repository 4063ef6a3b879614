"""Early stopping: whether a run should end in mid-training.

A large k keeps the learning rate high for longer, so the raw validation error ranks schedules
backwards until the last epochs; the error of averaged weights does not. So the averaged error is
what is reported to Optuna and judged here. docs/pruning.md has the measurements behind each rule:

- Runs are compared only with runs of the same seed, after the same number of epochs.
- A candidate ends only if it is behind by its own averaged error and by a smooth curve over log k
  (and log lr_max, if that is searched) through all of them, so that its neighbours speak for it.
- At share u of the training, the better 1 - u of all candidates continue: a run ends once that many
  are better, whenever they come.
- No run ends before ``pruning.first_share`` of the training or after the policy's
  ``last_look_share``, when little is left to be saved.
- ``pruning.keep_at_least`` candidates stay, and so does the baseline k = 1, at every level.
- Runs end early on the first seed only: further seeds are given only to candidates that may win.
- A run without averaged error is not judged, and no other run is compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.results import blow_up_limit
from kdecay_search.search.surrogate import smooth_means
from kdecay_search.search.tally import Memo
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_SEED, RunRequest, Trial

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


def may_stop(
    spec: StudySpec, request: RunRequest, epochs_done: int, policy: Policy = POLICY
) -> bool:
    """Whether :func:`should_stop` is worth asking after so many epochs, judged without a look at
    other runs."""
    is_open = spec.pruning.enabled and not request.protected and request.key.seed == FIRST_SEED
    return is_open and _is_compared(spec, epochs_done, policy)


def is_look(spec: StudySpec, number: int) -> bool:
    """Whether a run may be paused after this report."""
    return number in spec.looks


def goes_on(
    spec: StudySpec,
    trials: Iterable[Trial],
    trial_id: int,
    memo: Memo | None = None,
    policy: Policy = POLICY,
) -> bool:
    """Whether a run that has just reported at a look should train on; else it is paused.

    At share u of the training, the better 1 - u of the runs of its seed that have come so far go
    on, and so do baselines.

    Args:
        spec: The study.
        trials: All its trials as they are now, the run's own among them.
        trial_id: The run's own trial.
        memo: What earlier decisions of this process have worked out.
        policy: The constants behind the decisions.
    """
    every = list(trials)
    own = next(trial for trial in every if trial.trial_id == trial_id)
    if own.request.protected or not own.looks:
        return True
    number, stage = max(own.looks), own.candidate_key._replace(candidate=0)
    there = [
        trial.looks[number]
        for trial in every
        if trial.key.seed == own.key.seed
        and trial.candidate_key._replace(candidate=0) == stage
        and number in trial.looks
    ]
    staying = math.ceil((1 - number / spec.task.length.reports) * len(there) - _SLACK)
    return sum(error < own.looks[number] for error in there) < max(1, staying)


def _is_compared(spec: StudySpec, epochs_done: int, policy: Policy) -> bool:
    total = spec.task.length.reports
    share = epochs_done / total
    if not spec.pruning.first_share - _SLACK <= share <= policy.last_look_share + _SLACK:
        return False
    before = (epochs_done - 1) / total
    looks = policy.looks
    return math.floor(share * looks + _SLACK) != math.floor(before * looks + _SLACK)


def should_stop(
    spec: StudySpec,
    own: Curve,
    curves: Sequence[Curve],
    candidates: int,
    policy: Policy = POLICY,
) -> bool:
    """Whether a run that has just finished an epoch should end.

    Args:
        spec: The study.
        own: The run.
        curves: The first seed's runs of the stage, ``own`` among them.
        candidates: Number of the stage's candidates that may be ended early, including those that
            have not started or that the first seed leaves out.
        policy: The constants of the smooth curve.
    """
    keep = spec.pruning.keep_at_least
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
    limit = blow_up_limit(alone.values(), policy)
    usual = {p: error for p, error in alone.items() if math.isfinite(error) and error <= limit}
    if own.point not in usual:
        return True
    results = [(point, FIRST_SEED, error) for point, error in usual.items()]
    return is_behind(dict.fromkeys(alone, math.inf) | smooth_means(sorted(usual), results, policy))
