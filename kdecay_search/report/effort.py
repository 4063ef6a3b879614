"""What a study trained and what early stopping saved, in epochs or in steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from kdecay_search.search import Stage
from kdecay_search.snapshot import StudySnapshot, trained
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.study.trials import State, Trial


@dataclass(frozen=True)
class Effort:
    """Epochs of some trials, or steps if the study counts these, by what became of their run."""

    complete: int = 0
    """Trained in complete runs."""
    pruned: int = 0
    """Trained in runs that were ended early."""
    failed: int = 0
    """Trained in attempts that failed."""
    paused: int = 0
    """Trained in runs that are paused."""
    running: int = 0
    """Trained in runs that are under way."""
    saved_by_pruning: int = 0
    """Not trained because the run was ended early."""
    saved_by_skipping: int = 0
    """Not trained because the run was skipped: it was not needed."""

    @property
    def trained(self) -> int:
        """All that was trained."""
        return self.complete + self.pruned + self.failed + self.paused + self.running

    @property
    def saved(self) -> int:
        """All that was not trained."""
        return self.saved_by_pruning + self.saved_by_skipping


def effort_of(trials: Iterable[Trial], length: TrainingLength) -> Effort:
    """Add up what some trials trained and saved.

    Args:
        trials: The trials.
        length: The length of a whole run.
    """
    sums: Counter[str] = Counter()
    parts = {
        State.COMPLETE: "complete",
        State.PRUNED: "pruned",
        State.FAILED: "failed",
        State.PAUSED: "paused",
    }
    for trial in trials:
        sums[parts.get(trial.state, "running")] += trained(trial, length)
        if trial.state == State.PRUNED:
            saved = "saved_by_pruning" if trial.epochs else "saved_by_skipping"
            sums[saved] += length.total - length.position(trial.epochs)
    return Effort(**sums)


def trials_by_point(snapshot: StudySnapshot, stage: Stage) -> dict[Candidate, list[Trial]]:
    """A stage's trials by candidate, in ascending order, as far as their candidate is known."""
    found = defaultdict(list)
    for trial in snapshot.attempts:
        of_stage = trial.key.stage == stage.n and trial.request.earlier_ks == stage.earlier_ks
        if of_stage and trial.point is not None:
            found[trial.point].append(trial)
    return dict(sorted(found.items()))
