"""A study as it stands at one moment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from kdecay_search.schedules.kdecay import KDecaySchedule
from kdecay_search.search import Plan, Progress, make_plan
from kdecay_search.search.verdict import Verdict, judge, judge_confirmation
from kdecay_search.storage import Storage, records
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import WITHDRAWN, State, Trial


@dataclass(frozen=True)
class StudySnapshot:
    """The spec, all trials, and what the procedure makes of them."""

    spec: StudySpec
    trials: Collection[Trial]
    stopped: bool

    @cached_property
    def plan(self) -> Plan:
        return make_plan(self.spec, self.trials)

    @cached_property
    def verdict(self) -> Verdict:
        """How the best schedule of the search compares with the original, on validation data."""
        return judge(self.plan, self.state)

    @cached_property
    def confirmed(self) -> Verdict | None:
        """The same on fresh seeds, on the test set; None if the study has no confirmation yet."""
        confirmation = self.plan.confirmation
        return judge_confirmation(confirmation) if confirmation is not None else None

    @property
    def state(self) -> str:
        """``running``, ``done``, ``stopped`` or ``failed``."""
        if self.plan.progress == Progress.RUNNING and self.stopped:
            return "stopped"
        return str(self.plan.progress)

    @property
    def schedule(self) -> KDecaySchedule:
        """The best schedule so far; its warm-up is given in epochs, as in the study file."""
        return self.spec.schedule_for(self.plan.leader.ks, lr_max=self.plan.leader.lr_max)

    @property
    def original(self) -> KDecaySchedule:
        """The schedule with k = 1, at its best level where that was searched."""
        base = self.plan.baseline
        return self.spec.schedule_for(base.ks, lr_max=base.lr_max)

    @property
    def attempts(self) -> list[Trial]:
        """The trials, without those that were withdrawn because another served their run."""
        return [trial for trial in self.trials if trial.reason != WITHDRAWN]

    @property
    def given_up(self) -> list[Trial]:
        """The last failure of each run that nothing else serves."""
        last = {(trial.candidate_key, trial.key.seed): trial for trial in self.attempts}
        served = {
            (trial.candidate_key, trial.key.seed)
            for trial in self.attempts
            if trial.state != State.FAILED
        }
        return [trial for run, trial in last.items() if run not in served]

    def count(self, state: State) -> int:
        return sum(trial.state == state for trial in self.attempts)

    @property
    def epochs_trained(self) -> int:
        """Epochs that were really trained, failed attempts included."""
        return sum(trial.epochs - trial.resumed_epochs for trial in self.trials)

    @property
    def epochs_planned(self) -> int:
        """Epochs of all runs of the stages opened so far, if none were pruned."""
        candidates = sum(len(stage.candidates) for stage in self.plan.stages)
        runs = candidates * self.spec.search.seeds
        if self.plan.confirmation is not None:
            runs += len(self.plan.confirmation.rows) * self.spec.confirm.seeds
        return runs * self.spec.task.epochs


def read_snapshot(storage: Storage, name: str) -> StudySnapshot:
    """Read a study from the storage. Raises :class:`StudyError` if there is none."""
    spec, stopped = records.read_study(storage, name)
    return StudySnapshot(spec, records.read_history(storage, name), stopped)
