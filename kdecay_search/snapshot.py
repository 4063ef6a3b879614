"""A study at one moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.search import Memo, Plan, Progress, make_plan
from kdecay_search.search.machines import FailingPlace, failing_places
from kdecay_search.search.verdict import Verdict, judge, judge_confirmation
from kdecay_search.statistics import Sample, describe, paired_gain
from kdecay_search.storage import Storage, records
from kdecay_search.storage.records import StoredStudy
from kdecay_search.study.metric import Metric, MetricFormat
from kdecay_search.study.spec import StudySpec
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
    def schedule(self) -> KDecaySchedule:
        """The best schedule so far; its warm-up is in epochs or steps, as in the study file."""
        return self.spec.schedule_for(self.plan.leader.ks, lr_max=self.plan.leader.lr_max)

    @property
    def original(self) -> KDecaySchedule:
        """The schedule with k = 1, at its best learning-rate level if that was searched."""
        base = self.plan.baseline
        return self.spec.schedule_for(base.ks, lr_max=base.lr_max)

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

    def count(self, state: State) -> int:
        """Number of :attr:`attempts` in a state."""
        return sum(trial.state == state for trial in self.attempts)

    @property
    def epochs_trained(self) -> int:
        """Number of epochs, or of steps if the study counts these, that were trained, including
        those of failed trials; what several trials of a run share is counted once."""
        position = self.spec.task.length.position
        return sum(position(trial.epochs) - position(trial.resumed_epochs) for trial in self.trials)

    @property
    def epochs_planned(self) -> int:
        """Number of epochs, or of steps if the study counts these, that all runs of the stages
        opened so far would take without pruning."""
        candidates = sum(len(stage.candidates) for stage in self.plan.stages)
        runs = candidates * self.spec.search.seeds
        if self.plan.confirmation is not None:
            runs += len(self.plan.confirmation.rows) * self.spec.confirm.seeds
        return runs * self.spec.task.length.total


def read_snapshot(storage: Storage, name: str) -> StudySnapshot:
    """Read a study from the storage.

    Raises:
        StudyError: There is no such study, or its records make no sense.
        InvalidSpec: This version does not understand its spec.
    """
    return take_snapshot(storage, records.read_study(storage, name))


def take_snapshot(storage: Storage, study: StoredStudy) -> StudySnapshot:
    """Read the trials of a study that was just read from the storage."""
    trials = records.read_history(storage, study.spec.name)
    memo = _memos.setdefault(storage, Memo())
    return StudySnapshot(study.spec, trials, study.stopped, memo, study.launch)


def overview(snapshot: StudySnapshot) -> dict[str, Any]:
    """What a list of studies shows of one, as JSON-serialisable values.

    It is stored with a study that has ended, so that a list need not read all trials again.
    """
    plan, spec, verdict = snapshot.plan, snapshot.spec, snapshot.verdict
    metric, length = spec.task.metric, spec.task.length
    warmup: dict[str, float] = {"warmup_epochs": spec.schedule.warmup_epochs}
    if length.counts_steps:
        warmup = {"warmup_steps": spec.schedule.warmup_steps or 0}
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
        "schedule": {
            "family": spec.schedule.family,
            "ks": list(plan.leader.ks),
            "power": spec.schedule.power,
            "lr_max": snapshot.schedule.lr_max,
            "lr_min": spec.schedule.lr_min,
            **warmup,
        },
        "error": {**_values(plan.leader.errors, metric), "diverged": plan.leader.diverged},
        "baseline": {
            "ks": list(plan.baseline.ks),
            **level_of(plan.baseline.lr_max),
            **_values(plan.baseline.errors, metric),
            "diverged": plan.baseline.diverged,
        },
        "gain": gain_of(paired_gain(plan.baseline.errors, plan.leader.errors)),
        "trials": {str(state): snapshot.count(state) for state in State},
        f"{length.unit}s": {
            "trained": snapshot.epochs_trained,
            "planned": snapshot.epochs_planned,
        },
    }


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
