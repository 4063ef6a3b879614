"""The pruning policies that are compared: none, Optuna's own, and the package's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from benchmarks.former_stopping import Curve, may_stop, should_stop
from benchmarks.replay import Job, Judge
from kdecay_search.search import Memo
from kdecay_search.search.early_stopping import goes_on
from kdecay_search.search.policy import POLICY
from kdecay_search.search.policy import Policy as Constants
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import FIRST_SEED, RunKey, Trial

LOOKS = 12
"""Number of evenly spaced comparisons of MedianPruner in a training, as many as the package has."""


class NoPruning:
    """The full grid: every run is trained to its end."""

    pauses = False

    def start(self, job: Job) -> None:
        pass

    def should_stop(self, job: Job, trials: Sequence[Trial]) -> bool:
        return False

    def end(self, job: Job) -> None:
        pass


class Ours:
    """:mod:`kdecay_search.search.early_stopping`, as a worker uses it."""

    pauses = True

    def __init__(self, spec: StudySpec, constants: Constants = POLICY) -> None:
        self._spec, self._constants, self._memo = spec, constants, Memo()

    def start(self, job: Job) -> None:
        pass

    def should_stop(self, job: Job, trials: Sequence[Trial]) -> bool:
        if job.epochs not in self._spec.looks:
            return False
        return not goes_on(self._spec, trials, job.number, self._memo, self._constants)

    def end(self, job: Job) -> None:
        pass


class Former:
    """The rules before runs could be paused (:mod:`benchmarks.former_stopping`)."""

    pauses = False

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._first: list[Job] = []

    def start(self, job: Job) -> None:
        if job.request.key.seed == FIRST_SEED:
            self._first.append(job)

    def should_stop(self, job: Job, trials: Sequence[Trial]) -> bool:
        if not may_stop(self._spec, job.request, job.epochs):
            return False
        judged = {
            trial.key.candidate
            for trial in trials
            if trial.key.seed == FIRST_SEED and not trial.request.protected
        }
        others = [_curve(other) for other in self._first if other is not job and other.epochs]
        own = _curve(job)
        return should_stop(self._spec, own, [*others, own], len(judged))

    def end(self, job: Job) -> None:
        pass


def _curve(job: Job) -> Curve:
    return Curve(job.point, job.averaged[: job.epochs], job.request.protected, job.pruned)


class OfOptuna:
    """One of Optuna's pruners, on the trials of an in-memory study."""

    pauses = False

    def __init__(
        self,
        name: str,
        pruner: BasePruner,
        steps: frozenset[int],
        averaged: bool,
        reports_all: bool = False,
    ) -> None:
        """
        Args:
            name: Name of the in-memory study; Hyperband's brackets depend on it.
            pruner: Optuna's pruner.
            steps: Numbers of epochs after which the pruner is asked.
            averaged: Whether it looks at averaged error instead of raw error.
            reports_all: Whether it looks at what was reported in between. If not, only ``steps``
                are reported, which gives the same at less cost.
        """
        self._steps, self._averaged, self._reports_all = steps, averaged, reports_all
        self._pruner = pruner
        self._study = optuna.create_study(study_name=name, pruner=pruner)
        self._storage = self._study._storage
        self._ids: dict[RunKey, int] = {}

    def start(self, job: Job) -> None:
        self._ids[job.request.key] = self._storage.create_new_trial(self._study._study_id)

    def should_stop(self, job: Job, trials: Sequence[Trial]) -> bool:
        asked = job.epochs in self._steps
        if asked or self._reports_all:
            self._report(job)
        if not asked:
            return False
        trial = self._storage.get_trial(self._ids[job.request.key])
        return self._pruner.prune(self._study, trial)

    def end(self, job: Job) -> None:
        if not job.pruned:
            self._report(job)
        state = TrialState.PRUNED if job.pruned else TrialState.COMPLETE
        value = self._curve(job)[job.epochs - 1]
        self._storage.set_trial_state_values(self._ids[job.request.key], state, [value])

    def _report(self, job: Job) -> None:
        value = self._curve(job)[job.epochs - 1]
        self._storage.set_trial_intermediate_value(self._ids[job.request.key], job.epochs, value)

    def _curve(self, job: Job) -> Sequence[float]:
        return job.averaged if self._averaged else job.raw


class Asha:
    """Asynchronous successive halving, as Syne Tune's ``HyperbandScheduler(type="stopping")`` has
    it: at each rung a run goes on if its averaged error is within the best third of those that have
    come there so far, or if fewer than three have (Li et al., MLSys 2020)."""

    pauses = False
    factor = 3

    def __init__(self, spec: StudySpec) -> None:
        epochs = spec.task.length.reports
        first = max(1, epochs // self.factor**2)
        self._rungs: dict[int, list[float]] = {e: [] for e in _rungs(first, self.factor, epochs)}

    def start(self, job: Job) -> None:
        pass

    def should_stop(self, job: Job, trials: Sequence[Trial]) -> bool:
        there = self._rungs.get(job.epochs)
        if there is None:
            return False
        there.append(job.averaged[job.epochs - 1])
        cutoff = float(np.quantile(there, 1 / self.factor))
        return len(there) >= self.factor and there[-1] > cutoff

    def end(self, job: Job) -> None:
        pass


@dataclass(frozen=True)
class Policy:
    """A pruning policy that is compared."""

    name: str
    """Its name, as ``--policies`` takes it."""
    prunes: bool
    """Whether the study has ``pruning.enabled``, with the package's allocation of runs and its
    early stopping."""
    judge: Callable[[StudySpec, str, Constants], Judge]
    """Makes a new judge from the study, a name for the replay and the constants of the search."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Constants of the search that differ from those that a replay is given."""


def median(averaged: bool, spec: StudySpec, name: str, _: Constants) -> OfOptuna:
    """Optuna's MedianPruner. It prunes after five complete trials, and not before the share of the
    training before which the package does not prune either."""
    epochs = spec.task.length.reports
    first = math.ceil(spec.pruning.first_share * epochs - 1e-9)
    interval = max(1, epochs // LOOKS)
    pruner = MedianPruner(n_startup_trials=5, n_warmup_steps=first, interval_steps=interval)
    return OfOptuna(
        name, pruner, frozenset(range(first, epochs, interval)), averaged, reports_all=True
    )


def halving(averaged: bool, spec: StudySpec, name: str, _: Constants) -> OfOptuna:
    """Optuna's SuccessiveHalvingPruner. The better half continues after a quarter and after half of
    the training."""
    first = max(1, math.ceil(spec.task.length.reports / 4))
    pruner = SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
    return OfOptuna(name, pruner, _rungs(first, 2, spec.task.length.reports), averaged)


def hyperband(averaged: bool, spec: StudySpec, name: str, _: Constants) -> OfOptuna:
    """Optuna's HyperbandPruner. It reduces to a third, first after a ninth of the training."""
    epochs = spec.task.length.reports
    first = max(1, epochs // 9)
    pruner = HyperbandPruner(min_resource=first, max_resource=epochs, reduction_factor=3)
    return OfOptuna(name, pruner, _rungs(first, 3, epochs), averaged)


def _rungs(first: int, factor: int, epochs: int) -> frozenset[int]:
    steps = set()
    while first < epochs:
        steps.add(first)
        first *= factor
    return frozenset(steps)


def no_pruning(spec: StudySpec, name: str, constants: Constants) -> NoPruning:
    """Every run is trained to its end."""
    return NoPruning()


def asha(spec: StudySpec, name: str, constants: Constants) -> Asha:
    """Syne Tune's ASHA, by its rule."""
    return Asha(spec)


def former(spec: StudySpec, name: str, constants: Constants) -> Former:
    """The package's rules before runs could be paused."""
    return Former(spec)


def ours(spec: StudySpec, name: str, constants: Constants) -> Ours:
    """The package's own rules."""
    return Ours(spec, constants)


FORMER_CONSTANTS: Mapping[str, Any] = {"min_worth": 0.003, "verdict_share": 0.0}
"""The constants of the rules before runs could be paused, where they differ."""
POLICIES = (
    Policy("none", False, no_pruning),
    *(
        Policy(f"{name}-{signal}", False, partial(make, signal == "averaged"))
        for name, make in (("median", median), ("halving", halving), ("hyperband", hyperband))
        for signal in ("raw", "averaged")
    ),
    Policy("asha-averaged", False, asha),
    Policy("former", True, former, FORMER_CONSTANTS),
    Policy("ours", True, ours),
)
