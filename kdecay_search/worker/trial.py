"""A claimed trial, as Optuna's storage holds it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler

from kdecay_search.search.early_stopping import (
    FIRST_SEED,
    Curve,
    is_decision,
    is_worse,
    may_prune,
)
from kdecay_search.storage import Storage, history, queue, records
from kdecay_search.storage.connect import retried
from kdecay_search.storage.queue import Claim
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.comparators import COMPARATORS
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RAW, RunKey, RunRequest
from kdecay_search.tasks.protocol import DIVERGED_ERROR, Epoch, Interruption, Lost, Pruned

STARTUP_SHARE = 1 / 3
"""Share of a stage's candidates that tpe and gp draw at random before they model."""
MAX_STARTUP = 10
SCHEDULES = CategoricalDistribution(COMPARATORS)


class ClaimedTrial:
    """What the worker that holds it writes to a trial, and asks about it."""

    def __init__(self, storage: Storage, spec: StudySpec, claim: Claim) -> None:
        self._storage, self._spec, self._claim = storage, spec, claim
        self._reported = set(claim.reported)
        self._restored = 0
        self._is_raw = False
        self.k, self.lr_max = _point_of(storage, spec, claim)

    def restore(self, epochs: int) -> None:
        """So many epochs were trained by an earlier holder of the run: they are told and not
        judged again, and counted as trained once."""
        self._restored = epochs
        elsewhere = epochs - len([step for step in self._reported if step <= epochs])
        if elsewhere > 0:
            queue.note(self._storage, self._claim.trial_id, {records.RESUMED: elsewhere})

    def report(self, epoch: Epoch) -> type[Interruption] | None:
        """Report an epoch and, where a decision is due, ask whether to go on.

        An epoch that an earlier holder of this very trial has reported had the same value. Raises
        :class:`StorageUnavailable`; it may be called again then.
        """
        if epoch.number not in self._reported:
            if not self._store(epoch):
                return Lost
            self._reported.add(epoch.number)
        if not self.is_decision(epoch):
            return None
        trials = records.read_seed(self._storage, self._claim.study_id, FIRST_SEED)
        own = next((trial for trial in trials if trial.trial_id == self._claim.trial_id), None)
        if own is None:  # failed by others or deleted since the report
            return Lost
        return Pruned if should_prune(self._spec, own, trials) else None

    def _store(self, epoch: Epoch) -> bool:
        """Tell the averaged error, or for want of it the raw one, which is then marked as such:
        nobody may judge by it."""
        if epoch.averaged_error is None and not self._is_raw:
            queue.note(self._storage, self._claim.trial_id, {RAW: True})
            self._is_raw = True
        return queue.report(self._storage, self._claim, epoch.number, _judged(epoch))

    def is_decision(self, epoch: Epoch) -> bool:
        """Whether the run may end after this epoch, for what others did."""
        is_new = not epoch.diverged and epoch.number > self._restored
        is_judged = is_new and epoch.averaged_error is not None
        return is_judged and may_prune(self._spec, self._claim.request, epoch.number)

    def complete(self, curve: Sequence[Epoch], error: float | None = None) -> None:
        """``error``: the run's result (%), where it is not the last epoch's."""
        last = curve[-1]
        if error is None:
            error = last.validation_error
        error = DIVERGED_ERROR if last.diverged else error
        queue.complete(self._storage, self._claim.trial_id, error, _curves(curve))

    def prune(self, curve: Sequence[Epoch]) -> None:
        queue.prune(self._storage, self._claim.trial_id, _judged(curve[-1]), _curves(curve))


def should_prune(
    spec: StudySpec, own: records.SeedTrial, trials: Sequence[records.SeedTrial]
) -> bool:
    """Whether ``own``, one of a stage's ``trials`` on the first seed, should stop now.

    Trials that report raw errors are neither stopped nor compared with.
    """
    if own.is_raw or own.request.protected or own.candidate is None:
        return False
    # An earlier holder of this trial may have reported more epochs than this one has trained.
    if not is_decision(spec, len(own.values)):
        return False
    compared = [trial for trial in trials if not trial.is_raw]
    prunable = {trial.request.key.candidate for trial in compared if not trial.request.protected}
    curves = [
        Curve(trial.candidate, trial.values, trial.request.protected, trial.is_pruned)
        for trial in compared
        if trial.values and trial.candidate is not None and trial.trial_id != own.trial_id
    ]
    own_curve = Curve(own.candidate, own.values)
    return is_worse(spec, own_curve, [*curves, own_curve], len(prunable))


def _curves(curve: Sequence[Epoch]) -> dict[str, list[float]]:
    columns = {name: [getattr(epoch, name) for epoch in curve] for name in records.CURVES}
    return {
        name: [math.nan if value is None else value for value in column]
        for name, column in columns.items()
        if column.count(None) < len(column)
    }


def _judged(epoch: Epoch) -> float:
    """What is told to Optuna: the averaged error (%), or the raw one where that is all there is."""
    return epoch.validation_error if epoch.averaged_error is None else epoch.averaged_error


@retried
def _point_of(storage: Storage, spec: StudySpec, claim: Claim) -> Candidate:
    """The request's candidate, or the sampler's choice; stored as the trial's parameters.

    The parameter of a confirmation's trial is the name of its schedule.
    """
    request = claim.request
    if request.k is None:
        return _chosen(request, _open_trial(storage, spec, claim))
    if request.comparator is None:
        given, spaces = queue.parameters(request), queue.distributions(request)
    else:
        given, spaces = {history.CONTROL: request.comparator}, {history.CONTROL: SCHEDULES}
    queue.give_parameters(storage, claim.trial_id, given, spaces)
    return Candidate(request.k, request.lr_max)


def _chosen(request: RunRequest, trial: optuna.trial.Trial) -> Candidate:
    """What the sampler chooses."""
    lr_max, space = request.lr_max, queue.distribution(request)
    if request.levels:
        lr_max = float(trial.suggest_categorical(history.LEVEL, request.levels))
    return Candidate(
        trial.suggest_float(records.PARAMETER, space.low, space.high, log=True), lr_max
    )


def _open_trial(storage: Storage, spec: StudySpec, claim: Claim) -> optuna.trial.Trial:
    """As Optuna's samplers know it, with all trials of the stage."""
    study = optuna.load_study(
        study_name=records.stage_name(spec.name, claim.request.key.stage),
        storage=storage.optuna,
        sampler=_make_sampler(spec, claim.request.key),
    )
    study.get_trials(deepcopy=False)  # the cache must know a trial before it can be written to
    return optuna.trial.Trial(study, claim.trial_id)


def _make_sampler(spec: StudySpec, key: RunKey) -> BaseSampler:
    """A sampler for one suggestion, seeded by the candidate: workers never draw the same twice."""
    search = spec.search
    seed = zlib.crc32(f"{search.sampler_seed}/{key.stage}/{key.candidate}".encode())
    startup = min(MAX_STARTUP, max(2, round(STARTUP_SHARE * search.trials)))
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return optuna.samplers.RandomSampler(seed=seed)
