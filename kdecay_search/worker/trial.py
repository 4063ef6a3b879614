"""A claimed trial in the database: its candidate, its reports, the decision to prune, its end."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from kdecay_search.search.early_stopping import (
    Curve,
    is_look,
    may_stop,
    should_stop,
)
from kdecay_search.storage import Storage, attributes, parameters, queue, records
from kdecay_search.storage.connect import retried
from kdecay_search.storage.queue import Claim
from kdecay_search.storage.seed_trials import SeedTrial, read_seed
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_SEED, RAW_ONLY
from kdecay_search.tasks.outcome import curves_of, is_worsened, reported_value, result_of
from kdecay_search.tasks.protocol import Epoch, Interruption, Lost, Pruned
from kdecay_search.worker.sampling import make_sampler, suggested


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
        self.candidate = _choose_candidate(storage, spec, claim)
        """The point of the search space to train."""

    def restore(self, epochs: int) -> None:
        """Note how many reports a checkpoint has restored.

        They are reported again where this trial lacks them, but lead to no decision, and count as
        resumed where another trial has trained them.
        """
        self._restored = epochs
        elsewhere = epochs - len([step for step in self._reported if step <= epochs])
        if elsewhere > 0:
            queue.note(self._storage, self._claim.trial_id, {attributes.RESUMED: elsewhere})

    def report(self, epoch: Epoch) -> type[Interruption] | None:
        """Write a report and, if a decision is due, decide whether to prune the run.

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
        if not self.is_decision(epoch):
            return None
        trials = read_seed(self._storage, self._claim.study_id, FIRST_SEED)
        own = next((trial for trial in trials if trial.trial_id == self._claim.trial_id), None)
        if own is None:  # failed by another process or deleted since the report
            return Lost
        return Pruned if should_prune(self._spec, own, trials) else None

    def is_decision(self, epoch: Epoch) -> bool:
        """Whether the run may be pruned after this report, depending on other runs.

        A whole candidate is not: what its curve says of its end is not known.
        """
        if self._claim.request.point is not None:
            return False
        is_new = not epoch.diverged and epoch.number > self._restored
        is_comparable = is_new and epoch.averaged_error is not None
        return is_comparable and may_stop(self._spec, self._claim.request, epoch.number)

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
        noted: dict[str, object] = dict(curves_of(curve, attributes.CURVES))
        if is_worsened(metric, curve):
            noted[attributes.WORSENED] = True
        queue.complete(self._storage, self._claim.trial_id, result, noted)
        return result

    def prune(self, curve: Sequence[Epoch]) -> None:
        """Finish the trial as pruned after the last epoch of ``curve``."""
        kept = curves_of(curve, attributes.CURVES)
        queue.prune(self._storage, self._claim.trial_id, reported_value(curve[-1]), kept)


def should_prune(spec: StudySpec, own: SeedTrial, trials: Sequence[SeedTrial]) -> bool:
    """Whether ``own``, one of a stage's ``trials`` on the first seed, should stop now.

    Trials that report raw values are neither stopped nor compared with.
    """
    if own.is_raw or own.request.protected or own.candidate is None:
        return False
    # An earlier holder of this trial may have made more reports than this one.
    if not is_look(spec, len(own.errors)):
        return False
    compared = [trial for trial in trials if not trial.is_raw]
    prunable = {trial.request.key.candidate for trial in compared if not trial.request.protected}
    curves = [
        Curve(trial.candidate, trial.errors, trial.request.protected, trial.is_pruned)
        for trial in compared
        if trial.errors and trial.candidate is not None and trial.trial_id != own.trial_id
    ]
    own_curve = Curve(own.candidate, own.errors)
    return should_stop(spec, own_curve, [*curves, own_curve], len(prunable))


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
