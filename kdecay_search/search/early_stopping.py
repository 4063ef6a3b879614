"""Early stopping: whether a run that has come to a look trains on or is paused.

A large k keeps the learning rate high for longer, so the raw validation error ranks schedules
backwards until the last epochs; the error of averaged weights does not. So looks are at averaged
errors. A run is paused if another is worth clearly more for each epoch, or if its rest is worth
nothing; the plan resumes it if the answer comes to depend on it, and ends it as pruned when its
stage closes. docs/pruning.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kdecay_search.search.plan import planner_of
from kdecay_search.search.policy import POLICY, Policy
from kdecay_search.search.tally import Memo
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import CONFIRMATION, State, Trial, Trials


def goes_on(
    spec: StudySpec,
    trials: Iterable[Trial],
    trial_id: int,
    memo: Memo | None = None,
    policy: Policy = POLICY,
) -> bool:
    """Whether a run that has just reported at a look should train on; else it is paused.

    It goes on if the search would now choose it among everything that may be trained, with the
    other runs under way: see :func:`kdecay_search.search.allocation.is_worth_going_on`. The
    original goes on, and so does a run whose averaged errors are not known.

    Args:
        spec: The study.
        trials: All its trials as they are now, the run's own among them.
        trial_id: The run's own trial.
        memo: What earlier decisions of this process have worked out.
        policy: The constants behind the decisions.
    """
    known = trials if isinstance(trials, Trials) else Trials.of(trials)
    groups_of_own = (group.of_id(trial_id) for group in known.by_candidate.values())
    own = next(trial for trial in groups_of_own if trial is not None)
    key = own.key
    if own.request.protected or not own.looks or key.stage == CONFIRMATION:
        return True
    paused = replace(own, state=State.PAUSED, epochs=max(own.looks))
    groups = dict(known.by_candidate)
    groups[own.candidate_key] = groups[own.candidate_key].updated([paused])
    planner = planner_of(spec, Trials(groups), memo or Memo(), policy, key.stage)
    return planner is None or planner.goes_on(key.candidate, key.seed)
