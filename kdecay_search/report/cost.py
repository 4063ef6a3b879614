"""What a study cost: epochs or steps and device-seconds, in total and by worker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdecay_search.report.names import counted
from kdecay_search.snapshot import StudySnapshot, trained
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import LOST, State, Trial


@dataclass(frozen=True)
class Share:
    """What some trials cost."""

    trials: int
    """Number of trials."""
    epochs: int
    """Epochs that these trials trained, or steps if the study counts these, without those that a
    checkpoint already had."""
    seconds: float | None
    """Device-seconds; None if no trial has ended from which they could be estimated."""


@dataclass(frozen=True)
class Cost:
    """What all trained trials cost.

    Seconds are measured from a trial's claim to its end, by its worker's clock; trials that are
    trained together share them. Those of a trial that still runs, or was lost with its worker, are
    estimated by the mean time of the other trials' epochs or steps. The time before a pause is
    included, and that before any other interruption is not: measuring begins anew with the next
    claim.
    """

    whole: Share
    """The cost of all trials together."""
    by_worker: Mapping[str, Share]
    """The cost of each worker's trials, by its name."""
    estimated_epochs: int
    """Number of epochs or steps whose time is estimated."""

    @property
    def pace(self) -> float | None:
        """Device-seconds of an epoch or step; None if no run has been timed."""
        if self.whole.seconds is None or not self.whole.epochs:
            return None
        return self.whole.seconds / self.whole.epochs


def cost_of(snapshot: StudySnapshot, seconds: Mapping[int, float]) -> Cost:
    """What a study's trials cost.

    Args:
        snapshot: The study.
        seconds: Measured seconds by trial id, as ``storage.durations.read_durations`` reads them.
    """
    trials = [t for t in snapshot.attempts if t.epochs or t.state in (State.RUNNING, State.FAILED)]
    done = {t.trial_id: trained(t, snapshot.spec.task.length) for t in trials}
    measured = {t.trial_id for t in trials if t.trial_id in seconds and t.reason != LOST}
    timed = [t for t in trials if t.trial_id in measured and done[t.trial_id]]
    epochs = sum(done[t.trial_id] for t in timed)
    pace = sum(seconds[t.trial_id] for t in timed) / epochs if epochs else None

    def share(group: Iterable[Trial]) -> Share:
        of = list(group)
        known = sum(seconds[t.trial_id] for t in of if t.trial_id in measured)
        rest = sum(done[t.trial_id] for t in of if t.trial_id not in measured)
        whole = sum(done[t.trial_id] for t in of)
        return Share(len(of), whole, None if pace is None else known + rest * pace)

    workers: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        workers[trial.worker or "unknown"].append(trial)
    return Cost(
        whole=share(trials),
        by_worker={name: share(workers[name]) for name in sorted(workers)},
        estimated_epochs=sum(done[t.trial_id] for t in trials if t.trial_id not in measured),
    )


def seconds_per_run(snapshot: StudySnapshot, seconds: Mapping[int, float]) -> float | None:
    """Device-seconds of a run of full length, by the mean time of the study's epochs or steps.

    Args:
        snapshot: The study.
        seconds: Measured seconds by trial id.

    Returns:
        The seconds; None if no run has been timed.
    """
    pace = cost_of(snapshot, seconds).pace
    return None if pace is None else pace * snapshot.spec.task.length.total


def budget_sentence(spec: StudySpec, seconds: float | None, timed: str) -> str:
    """What the budget of a search of whole schedules means, in a sentence.

    Args:
        spec: The study.
        seconds: Device-seconds of a run of full length; None if no run has been timed.
        timed: What was timed, such as ``by its runs so far``.
    """
    budget, length = spec.search.budget, spec.task.length
    runs = f"The budget is {counted(budget, 'run')}, {length.count(budget * length.total)} in all"
    if seconds is None:
        return f"{runs}."
    each = duration(seconds) if seconds >= 1 else "less than 1 s"
    whole = duration(max(1.0, budget * seconds))
    return f"{runs}: about {whole} on one device, at {each} a run ({timed})."


def duration(seconds: float) -> str:
    """A duration in a unit that fits: ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004
