"""A claimed trial in the database: its candidate, its reports, whether it is paused, its end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from kdecay_search.search import Memo
from kdecay_search.search.early_stopping import goes_on
from kdecay_search.storage import Storage, attributes, parameters, pausing, queue, records
from kdecay_search.storage.connect import retried
from kdecay_search.storage.queue import Claim
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RAW_ONLY, State, key_of
from kdecay_search.tasks.outcome import (
    curves_of,
    is_worsened,
    may_be_paused,
    reported_value,
    result_of,
)
from kdecay_search.tasks.protocol import Epoch, Interruption, Lost, Paused
from kdecay_search.worker.sampling import MemorySampler, make_sampler, suggested

_memos: WeakKeyDictionary[Storage, Memo] = WeakKeyDictionary()
"""What this process worked out for earlier decisions to pause, by the storage that keeps the
trials. It saves time and changes nothing."""
_deciding = threading.Lock()
"""Held while a decision is made: a thread that was abandoned may still be deciding."""


class ClaimedTrial:
    """A claimed trial in the database, as the worker that holds it reads and writes it.

    Args:
        storage: The database that holds the trial.
        spec: The study that the trial belongs to.
        claim: The trial, as this worker claimed it.
    """

    def __init__(self, storage: Storage, spec: StudySpec, claim: Claim) -> None:
        self._storage, self._spec, self._claim = storage, spec, claim
        self._reported = set(claim.reported)
        """Numbers of the reports that the database holds."""
        self._restored = 0
        """How many reports were made by an earlier trial or holder."""
        self._is_raw = False
        """Whether the trial is marked as one that reports raw values."""
        self._has_repeated = False
        """Whether reports of an earlier holder have been made again."""
        self._is_pausing = False
        """Whether it has been decided to pause the run."""
        self.shared_seconds = 0.0
        """How much of the time since it was claimed counts for trials that it is trained with."""
        self.keeps_state = False
        """Whether the run could be resumed from where it is: otherwise it is not paused."""
        self.candidate = _choose_candidate(storage, spec, claim)
        """The point of the search space to train."""

    def restore(self, epochs: int) -> None:
        """Note how many reports a checkpoint has restored.

        They are reported again where this trial lacks them, but lead to no decision, and count as
        resumed where another trial has trained them.
        """
        self._restored = epochs
        if not self._claim.reported:
            queue.note(self._storage, self._claim.trial_id, {attributes.RESUMED: epochs})

    def report(self, epoch: Epoch) -> type[Interruption] | None:
        """Write a report and, at a look, decide whether to pause the run.

        A report that an earlier holder of this trial has written is not written again: its value
        was the same.

        Returns:
            The interruption that ends the training, or None.

        Raises:
            StorageUnavailable: The call may be repeated.
        """
        if epoch.number not in self._reported:
            if epoch.averaged_error is None and not self._is_raw:
                queue.note(self._storage, self._claim.trial_id, {RAW_ONLY: True})
                self._is_raw = True
            if not queue.report(self._storage, self._claim, epoch.number, reported_value(epoch)):
                return Lost
            self._reported.add(epoch.number)
        elif self._is_repeated(epoch) and not self._has_repeated:
            self._note_repetition()
        return self._decision() if self.is_decision(epoch) else None

    def is_decision(self, epoch: Epoch) -> bool:
        """Whether the run may be paused after this report, depending on other runs.

        It may not be where it was before and an earlier holder has gone on, nor in a confirmation.
        """
        before = max(self._restored, *self._claim.reported, 0)
        is_search = self._claim.request.comparator is None
        return is_search and may_be_paused(self._spec, epoch, before)

    def _decision(self) -> type[Interruption] | None:
        if self._is_pausing or not self.keeps_state:
            return None
        trials = records.read_history(self._storage, self._spec.name, self._spec.looks)
        of_run = trials.by_candidate.get(key_of(self._claim.request))
        own = of_run.of_id(self._claim.trial_id) if of_run else None
        if own is None or own.state != State.RUNNING:  # failed or deleted since the report
            return Lost
        with _deciding:
            memo = _memos.setdefault(self._storage, Memo())
            self._is_pausing = not goes_on(self._spec, trials, self._claim.trial_id, memo)
        return Paused if self._is_pausing else None

    def _is_repeated(self, epoch: Epoch) -> bool:
        """Whether an earlier holder has made a report that was not restored."""
        return epoch.number in self._claim.reported and epoch.number > self._restored

    def _note_repetition(self) -> None:
        again = sum(number > self._restored for number in self._claim.reported)
        repeated = {attributes.REPEATED: self._claim.repeated + again}
        queue.note(self._storage, self._claim.trial_id, repeated)
        self._has_repeated = True

    def complete(self, curve: Sequence[Epoch], value: float | None = None) -> float:
        """Finish the trial with its result and its curves.

        Args:
            curve: All reports of the run.
            value: The run's final value of the metric; None for that of the last report.

        Returns:
            The value that is stored: the worst there is, infinite, if the run has diverged.
        """
        metric = self._spec.task.metric
        result = result_of(metric, curve, value)
        noted = self._kept(curve)
        if is_worsened(metric, curve):
            noted[attributes.WORSENED] = True
        queue.complete(self._storage, self._claim.trial_id, result, noted)
        return result

    def pause(self, curve: Sequence[Epoch]) -> None:
        """Put the trial aside after the last epoch of ``curve``, with its checkpoint written."""
        pausing.pause(self._storage, self._claim, curve[-1].number, self._kept(curve))

    def _kept(self, curve: Sequence[Epoch]) -> dict[str, object]:
        """What is kept with the trial for reports to show."""
        kept: dict[str, object] = dict(curves_of(curve, attributes.CURVES))
        if self.shared_seconds:
            shared = self._claim.shared_seconds + self.shared_seconds
            kept[attributes.SHARED_SECONDS] = round(shared, 3)
        return kept


@retried
def with_choice(storage: Storage, spec: StudySpec, claim: Claim) -> Claim:
    """The claim, with a whole candidate that a sampler proposes where its request is for one. It is
    stored as if the trial had been queued with it, so that another worker trains the same."""
    request = claim.request
    if not (spec.search.is_joint and request.is_open):
        return claim
    trials = records.read_history(storage, spec.name, spec.looks)
    chosen = request.chosen(MemorySampler(spec).choose(request, trials))
    queue.note(storage, claim.trial_id, attributes.request_attributes(chosen))
    return replace(claim, request=chosen)


@retried
def _choose_candidate(storage: Storage, spec: StudySpec, claim: Claim) -> Candidate:
    """The request's candidate, or the sampler's choice; stored as the trial's parameters.

    The parameter of a confirmation's trial is the name of its schedule.

    Raises:
        Lost: The trial was ended or deleted before the sampler has chosen.
    """
    request = claim.request
    if request.is_open:
        try:
            return _sample(storage, spec, claim)
        except (UpdateFinishedTrialError, KeyError) as error:
            if queue.beat(storage, claim).running:
                raise
            raise Lost from error
    given = parameters.parameters(request)
    space = spec.schedule_space() if request.point else None
    spaces = parameters.distributions(request, space)
    queue.give_parameters(storage, claim.trial_id, given, spaces)
    return request.point or Candidate(request.k, request.lr_max)


def _sample(storage: Storage, spec: StudySpec, claim: Claim) -> Candidate:
    """Let Optuna's sampler choose, knowing all trials of the stage."""
    request = claim.request
    with storage.borrow_optuna() as borrowed:
        study = optuna.load_study(
            study_name=records.stage_name(spec.name, request.key.stage),
            storage=borrowed,
            sampler=make_sampler(spec.search, request.key),
        )
        study.get_trials(deepcopy=False)  # the cache must know a trial before it is written to
        trial = optuna.trial.Trial(study, claim.trial_id)
        return suggested(trial, request)
