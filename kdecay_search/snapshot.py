"""A study at one moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from kdecay_search.schedules.base import Schedule
from kdecay_search.search import Incumbent, Memo, Plan, Progress, make_plan
from kdecay_search.search.machines import FailingPlace, failing_places
from kdecay_search.search.verdict import Verdict, judge, judge_confirmation
from kdecay_search.statistics import Sample, describe, paired_gain
from kdecay_search.storage import Storage, records
from kdecay_search.storage.records import StoredStudy
from kdecay_search.study.candidate import COOLDOWNS, Candidate
from kdecay_search.study.metric import Metric, MetricFormat
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.study.trials import WITHDRAWN, State, Trial

_memos: WeakKeyDictionary[Storage, Memo] = WeakKeyDictionary()
"""What this process worked out for earlier plans, by the storage that keeps the trials they were
made from. It saves time and changes nothing."""


@dataclass(frozen=True)
class StudySnapshot:
    """A study at one moment: its spec, its trials, and the plan and the verdict that follow."""

    spec: StudySpec
    """The study as launched."""
    trials: Collection[Trial]
    """All trials of the study, stage by stage."""
    stopped: bool
    """Whether the user has stopped the study."""
    memo: Memo = field(default_factory=Memo, repr=False, compare=False)
    """What earlier plans have worked out; it saves time and changes nothing."""
    launch: str | None = None
    """Id of the launch that made the study; None for a study of version 0.1.0."""

    @cached_property
    def plan(self) -> Plan:
        """What to do next, and what the records amount to."""
        with records.readable(self.spec.name):
            return make_plan(self.spec, self.trials, self.memo)

    @cached_property
    def verdict(self) -> Verdict:
        """How the best schedule of the search compares with the original, on validation data."""
        with records.readable(self.spec.name):
            return judge(self.plan, self.state)

    @cached_property
    def confirmed(self) -> Verdict | None:
        """How the best schedule compares with the original on fresh seeds and test data; None if
        the study has no confirmation yet."""
        confirmation = self.plan.confirmation
        with records.readable(self.spec.name):
            if confirmation is None:
                return None
            return judge_confirmation(confirmation, self.plan.format)

    @property
    def state(self) -> str:
        """The state of the study: ``running``, ``done``, ``stopped`` or ``failed``."""
        if self.plan.progress == Progress.RUNNING and self.stopped:
            return "stopped"
        return str(self.plan.progress)

    @property
    def schedule(self) -> Schedule:
        """The best schedule so far; its warm-up is in epochs or steps, as in the study file."""
        return self.schedule_of(self.plan.leader)

    @property
    def original(self) -> Schedule:
        """The schedule with k = 1, at its best level and floor as far as these were searched."""
        return self.schedule_of(self.plan.baseline)

    def schedule_of(self, found: Incumbent, steps_per_epoch: float = 1) -> Schedule:
        """The schedule of the leader, of the baseline, or of another incumbent.

        Args:
            found: The incumbent.
            steps_per_epoch: Optimizer updates per epoch, for the warm-up.
        """
        if found.point is not None:
            return self.spec.candidate_schedule(found.point, found.ks[:-1], steps_per_epoch)
        return self.spec.schedule_for(found.ks, steps_per_epoch, found.lr_max)

    @property
    def is_joint(self) -> bool:
        """Whether the study searches whole schedules on a budget."""
        return self.spec.search.is_joint

    @property
    def attempts(self) -> list[Trial]:
        """The trials, without those that were withdrawn because another served their run."""
        return [trial for trial in self.trials if trial.reason != WITHDRAWN]

    @cached_property
    def failing_places(self) -> list[FailingPlace]:
        """The machines, or single workers of them, that fail every run lately."""
        return failing_places(self.attempts)

    @property
    def given_up(self) -> list[Trial]:
        """The last failed trial of each run that no other trial serves."""
        last = {(trial.candidate_key, trial.key.seed): trial for trial in self.attempts}
        served = {
            (trial.candidate_key, trial.key.seed)
            for trial in self.attempts
            if trial.state != State.FAILED
        }
        return [trial for run, trial in last.items() if run not in served]

    @property
    def trial_counts(self) -> dict[str, int]:
        """Number of :attr:`attempts` by what has become of them: by state, but those that were
        never started, because they were not needed, are ``skipped`` and not ``pruned``."""
        skipped = sum(t.state == State.PRUNED and not t.epochs for t in self.attempts)
        counts = {str(state): self.count(state) for state in State}
        return counts | {"pruned": counts["pruned"] - skipped, "skipped": skipped}

    def count(self, state: State) -> int:
        """Number of :attr:`attempts` in a state."""
        return sum(trial.state == state for trial in self.attempts)

    @property
    def epochs_trained(self) -> int:
        """Number of epochs, or of steps if the study counts these, that were trained, including
        those of failed trials; what several trials of a run share is counted once, and what a trial
        trained twice, twice."""
        return sum(trained(trial, self.spec.task.length) for trial in self.trials)

    @property
    def epochs_planned(self) -> int:
        """Number of epochs, or of steps if the study counts these, that all runs of the stages
        opened so far would take without pruning, or that the budget of a search of whole schedules
        allows."""
        candidates = sum(len(stage.candidates) for stage in self.plan.stages)
        runs = candidates * self.spec.search.seeds
        if self.is_joint:
            runs = self.spec.search.budget
        if self.plan.confirmation is not None:
            runs += len(self.plan.confirmation.rows) * self.spec.confirm.seeds
        return runs * self.spec.task.length.total


def trained(trial: Trial, length: TrainingLength) -> int:
    """Epochs or steps that a trial trained: without those that a checkpoint already had, and with
    those that it trained a second time."""
    return (
        length.position(trial.epochs)
        - length.position(trial.resumed_epochs)
        + length.position(trial.repeated_epochs)
    )


def read_snapshot(storage: Storage, name: str) -> StudySnapshot:
    """Read a study from the storage.

    Raises:
        StudyError: There is no such study, or its records make no sense.
        InvalidSpec: This version does not understand its spec.
    """
    return take_snapshot(storage, records.read_study(storage, name))


def take_snapshot(storage: Storage, study: StoredStudy) -> StudySnapshot:
    """Read the trials of a study that was just read from the storage."""
    trials = records.read_history(storage, study.spec.name, study.spec.looks)
    memo = _memos.setdefault(storage, Memo())
    return StudySnapshot(study.spec, trials, study.stopped, memo, study.launch)


def overview(snapshot: StudySnapshot) -> dict[str, Any]:
    """What a list of studies shows of one, as JSON-serialisable values.

    It is stored with a study that has ended, so that a list need not read all trials again.
    """
    plan, spec, verdict = snapshot.plan, snapshot.spec, snapshot.verdict
    metric, length = spec.task.metric, spec.task.length
    return {
        "study": spec.name,
        "state": snapshot.state,
        "metric": metric_of(plan.format),
        "verdict": {
            "sentence": verdict.sentence,
            "outcome": str(verdict.outcome),
            "of": verdict.of,
            "against": verdict.against,
            "estimate": verdict.estimate,
            "interval95": list(verdict.interval) if verdict.interval else None,
            "model": None if verdict.model is None else str(verdict.model),
            "pairs": verdict.pairs,
        },
        "schedule": _schedule(snapshot),
        "error": {**_values(plan.leader.errors, metric), "diverged": plan.leader.diverged},
        "baseline": {
            "ks": list(plan.baseline.ks),
            **level_of(plan.baseline.lr_max),
            **_named(plan.baseline),
            **_values(plan.baseline.errors, metric),
            "diverged": plan.baseline.diverged,
        },
        "gain": gain_of(paired_gain(plan.baseline.errors, plan.leader.errors)),
        "trials": snapshot.trial_counts,
        f"{length.unit}s": {
            "trained": snapshot.epochs_trained,
            "planned": snapshot.epochs_planned,
        },
        **_budget(snapshot),
    }


def _schedule(snapshot: StudySnapshot) -> dict[str, Any]:
    """The best schedule so far."""
    spec, leader = snapshot.spec, snapshot.plan.leader
    length, point = spec.task.length, leader.point
    warmup: dict[str, float] = {"warmup_epochs": spec.schedule.warmup_epochs}
    if length.counts_steps:
        warmup = {"warmup_steps": spec.schedule.warmup_steps or 0}
    if point is None:
        return {
            "family": spec.schedule.family,
            "ks": list(leader.ks),
            "power": spec.schedule.power,
            "lr_max": snapshot.schedule.lr_max,
            "lr_min": spec.schedule.lr_min,
            **warmup,
        }
    if point.warmup is not None and length.counts_steps:
        warmup = {"warmup_steps": snapshot.schedule.warmup_steps}
    elif point.warmup is not None:
        warmup = {"warmup_epochs": float(f"{point.warmup * length.total:.10g}")}
    return {
        **_named(leader),
        "ks": list(leader.ks),
        **({} if point.family in COOLDOWNS else {"power": point.power or 1.0}),
        "lr_max": snapshot.schedule.lr_max,
        "lr_min": snapshot.schedule.lr_min,
        **warmup,
    }


def _named(found: Incumbent) -> dict[str, Any]:
    """The name of an incumbent and all its parameters, in a search of whole schedules; its terms
    are stated as a list elsewhere."""
    if found.point is None:
        return {}
    values = parameters_of(found.point)
    values.pop("k", None)
    return {"name": found.name, **values}


def parameters_of(point: Candidate) -> dict[str, Any]:
    """The parameters that a candidate states, by their names in JSON: ``lr_min_share`` is a share
    of ``lr_max``, ``warmup_share`` and ``decay_share`` are shares of the training."""
    shares = {"lr_min": "lr_min_share", "warmup": "warmup_share"}
    return {shares.get(name, name): value for name, value in point.stated().items()}


def _budget(snapshot: StudySnapshot) -> dict[str, Any]:
    if not snapshot.is_joint:
        return {}
    plan, runs = snapshot.plan, snapshot.spec.search.budget
    return {"budget": {"runs": runs, "begun": plan.begun, "spent": round(plan.spent, 3)}}


def metric_of(shown: MetricFormat) -> dict[str, Any]:
    """A study's metric with the decimals that it is shown with, as JSON-serialisable values."""
    return {**shown.metric.model_dump(), "decimals": shown.decimals}


def level_of(lr_max: float | None) -> dict[str, Any]:
    """The level of the learning rate, under its key if it was searched."""
    return {} if lr_max is None else {"lr_max": lr_max}


def gain_of(gain: Sample) -> dict[str, Any]:
    """A paired gain as JSON-serialisable values."""
    interval = gain.interval()
    return {**_sample(gain), "interval95": list(interval) if interval else None}


def _values(errors: Mapping[int, float], metric: Metric) -> dict[str, Any]:
    """Mean and spread of errors, as values of the metric."""
    sample = describe(errors.values())
    mean = None if sample.mean is None else metric.value(sample.mean)
    return {**_sample(sample), "mean": mean}


def _sample(sample: Sample) -> dict[str, Any]:
    return {"mean": sample.mean, "sd": sample.sd, "n": sample.n}
