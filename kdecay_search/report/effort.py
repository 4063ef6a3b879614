"""What a study trained, and what ending runs early saved; in epochs, by candidate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from kdecay_search.search import Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import State, Trial


@dataclass(frozen=True)
class Effort:
    """Epochs of some trials, by what became of their run."""

    complete: int = 0
    """Trained in runs that are complete …"""
    pruned: int = 0
    """… that were ended early …"""
    failed: int = 0
    """… in attempts that failed …"""
    running: int = 0
    """… and in runs that have not ended."""
    saved_by_pruning: int = 0
    """Not trained, since the run was ended early …"""
    saved_by_race: int = 0
    """… or was not needed: it lost the race before it began."""

    @property
    def trained(self) -> int:
        return self.complete + self.pruned + self.failed + self.running

    @property
    def saved(self) -> int:
        return self.saved_by_pruning + self.saved_by_race

    def __add__(self, other: Effort) -> Effort:
        return Effort(*(a + b for a, b in zip(_fields(self), _fields(other), strict=True)))


def _fields(effort: Effort) -> tuple[int, ...]:
    return (
        effort.complete,
        effort.pruned,
        effort.failed,
        effort.running,
        effort.saved_by_pruning,
        effort.saved_by_race,
    )


def effort_of(trials: Iterable[Trial], epochs: int) -> Effort:
    """``epochs``: of a whole run."""
    return sum((_effort(trial, epochs) for trial in trials), Effort())


def _effort(trial: Trial, epochs: int) -> Effort:
    trained = trial.epochs - trial.resumed_epochs
    if trial.state == State.COMPLETE:
        return Effort(complete=trained)
    if trial.state == State.FAILED:
        return Effort(failed=trained)
    if trial.state != State.PRUNED:
        return Effort(running=trained)
    if trial.epochs == 0:
        return Effort(saved_by_race=epochs)
    return Effort(pruned=trained, saved_by_pruning=epochs - trial.epochs)


def trials_by_point(snapshot: StudySnapshot, stage: Stage) -> dict[Candidate, list[Trial]]:
    """The stage's trials whose candidate is known, by that, ascending."""
    found = defaultdict(list)
    for trial in snapshot.attempts:
        of_stage = trial.key.stage == stage.n and trial.request.earlier_ks == stage.earlier_ks
        if of_stage and trial.point is not None:
            found[trial.point].append(trial)
    return dict(sorted(found.items()))
