"""What a study took: epochs and device-seconds, in all and by worker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.trials import LOST, State, Trial


@dataclass(frozen=True)
class Share:
    """What some trials took."""

    trials: int
    epochs: int
    """Trained by these trials, without those that they took over from a checkpoint."""
    seconds: float | None
    """Of a device; None if no trial has ended by which to tell."""


@dataclass(frozen=True)
class Cost:
    """What all trained trials took.

    Measured from a trial's claim to its end, by its worker's clock. Where that cannot be had (the
    trial still runs, or was lost with its worker), its epochs count with the mean time of the
    others' epochs. The time before an interruption is not kept: the trial's next holder begins
    anew.
    """

    whole: Share
    by_worker: Mapping[str, Share]
    estimated_epochs: int
    """Of the epochs, those whose time is taken from the others."""


def cost_of(snapshot: StudySnapshot, seconds: Mapping[int, float]) -> Cost:
    """``seconds``: of :func:`kdecay_search.storage.durations.read_durations`."""
    trials = [t for t in snapshot.attempts if t.epochs or t.state in (State.RUNNING, State.FAILED)]
    measured = {t.trial_id for t in trials if t.trial_id in seconds and t.reason != LOST}
    timed = [t for t in trials if t.trial_id in measured and _epochs(t)]
    epochs = sum(map(_epochs, timed))
    pace = sum(seconds[t.trial_id] for t in timed) / epochs if epochs else None

    def share(group: Iterable[Trial]) -> Share:
        of = list(group)
        known = sum(seconds[t.trial_id] for t in of if t.trial_id in measured)
        rest = sum(_epochs(t) for t in of if t.trial_id not in measured)
        trained = sum(map(_epochs, of))
        return Share(len(of), trained, None if pace is None else known + rest * pace)

    workers: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        workers[trial.worker or "unknown"].append(trial)
    return Cost(
        whole=share(trials),
        by_worker={name: share(workers[name]) for name in sorted(workers)},
        estimated_epochs=sum(_epochs(t) for t in trials if t.trial_id not in measured),
    )


def _epochs(trial: Trial) -> int:
    return trial.epochs - trial.resumed_epochs
