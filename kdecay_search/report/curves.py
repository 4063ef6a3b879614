"""The curves that a report shows: of a bounded number of runs, at a bounded number of points."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdecay_search.report.effort import trials_by_point
from kdecay_search.report.names import diverged_seeds
from kdecay_search.report.whole import featured
from kdecay_search.search import BASELINE_KS, Stage, spread
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage import Storage
from kdecay_search.storage import curves as stored
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import State, Trial

MOST_CANDIDATES = 12
"""Most candidates of a stage whose curves are shown; the best and the original are among them."""
MOST_SHOWN_SEEDS = 5
"""Most seeds of a candidate whose curves are shown."""
POINTS_OVERALL = 100
"""Most points of a curve that are spread evenly over the training."""
POINTS_AT_END = 40
"""Most points of a curve that are spread evenly over its last :data:`END_SHARE`."""
END_SHARE = 0.25
"""The end of the training that is shown more closely, as a share of it."""
NAMES = ("validation_error", "averaged_error", "training_loss")
"""Curves that a report shows, as a trial's attributes name them."""
_PREFERRED = (State.COMPLETE, State.PRUNED, State.RUNNING, State.PAUSED)
"""Which of several trials of a run is shown: one in the first of these states."""


@dataclass(frozen=True)
class RunCurve:
    """One run's curves, each with a value for each of ``epochs``; NaN where one is not finite."""

    k: float
    """The candidate's k; NaN if it is not known."""
    seed: int
    """The seed of the run."""
    state: State
    """What has become of the run."""
    epochs: tuple[int, ...]
    """Number of epochs done at each point, increasing."""
    averaged_error: tuple[float, ...]
    """Metric of the averaged weights at each point, as the run reported it."""
    validation_error: tuple[float, ...] = ()
    """Metric of the weights as they are, as the run reported it; empty until the run is over."""
    training_loss: tuple[float, ...] = ()
    """Mean training loss of the epoch at each point; empty until the run is over."""
    lr_max: float | None = None
    """The candidate's level of the learning rate, if that is searched."""
    diverged: bool = False
    """Whether the run counts as diverged: its values may be of any size, or not finite."""
    whole: Candidate | None = None
    """The whole schedule, if the study searches these; None on a grid."""

    @property
    def point(self) -> Candidate:
        """The run's candidate."""
        return self.whole or Candidate(self.k, self.lr_max)


@dataclass(frozen=True)
class Curves:
    """The curves that are shown."""

    by_stage: Mapping[int, Sequence[RunCurve]]
    """Curves by number of the stage, each sorted by candidate and seed."""

    def of(self, stage: Stage) -> Sequence[RunCurve]:
        """The curves of a stage, by candidate and seed."""
        return self.by_stage.get(stage.n, ())

    def judged(self, snapshot: StudySnapshot, stage: Stage) -> list[RunCurve]:
        """The curves of a stage, with those that count as diverged marked."""
        seeds = diverged_seeds(snapshot, stage)
        diverged = {(c.point, seed) for c in stage.candidates for seed in seeds.get(c.index, ())}
        return [replace(run, diverged=(run.point, run.seed) in diverged) for run in self.of(stage)]


def read_curves(storage: Storage, snapshot: StudySnapshot) -> Curves:
    """Read the curves of every stage, only for the trials that :func:`shown_trials` chooses."""
    chosen = {stage.n: shown_trials(snapshot, stage) for stage in snapshot.plan.stages}
    trials = [trial for group in chosen.values() for trial in group]
    kept = stored.read_kept(storage, (t.trial_id for t in trials if not t.open), NAMES)
    rest = [trial.trial_id for trial in trials if trial.trial_id not in kept]
    reported = stored.read_reported(storage, rest)
    return _thinned(chosen, kept, reported)


def curves_in(snapshot: StudySnapshot, kept: Mapping[int, Mapping[str, Sequence[float]]]) -> Curves:
    """The curves of every stage of a study whose curves are in memory.

    Args:
        snapshot: The study.
        kept: Complete curves by trial id and name.
    """
    chosen = {stage.n: shown_trials(snapshot, stage) for stage in snapshot.plan.stages}
    return _thinned(chosen, kept, {})


def _thinned(
    chosen: Mapping[int, Sequence[Trial]],
    kept: Mapping[int, Mapping[str, Sequence[float]]],
    reported: Mapping[int, Mapping[int, float]],
) -> Curves:
    return Curves(
        {
            n: [
                thinned(trial, kept.get(trial.trial_id, {}), reported.get(trial.trial_id, {}))
                for trial in group
            ]
            for n, group in chosen.items()
        }
    )


def shown_trials(snapshot: StudySnapshot, stage: Stage) -> list[Trial]:
    """The trials of a stage whose curves are shown, by candidate and seed.

    There is one for each run, of a bounded number of candidates and seeds.
    """
    runs: dict[Candidate, dict[int, Trial]] = defaultdict(dict)
    for point, trials in trials_by_point(snapshot, stage).items():
        shown = [trial for trial in trials if trial.epochs and trial.state in _PREFERRED]
        for trial in sorted(shown, key=lambda trial: _PREFERRED.index(trial.state)):
            runs[point].setdefault(trial.key.seed, trial)
    return [
        runs[point][seed]
        for point in sorted(_shown_candidates(snapshot, stage, runs))
        for seed in sorted(runs[point])[:MOST_SHOWN_SEEDS]
    ]


def _shown_candidates(
    snapshot: StudySnapshot, stage: Stage, known: Collection[Candidate]
) -> Sequence[Candidate]:
    """The original and the best candidate, and an even choice of the others.

    Of whole schedules, the best candidate, each usual schedule at its best, and the next best ones.
    """
    if snapshot.is_joint:
        return [point for point in featured(stage) if point in known]
    always = [Candidate(*BASELINE_KS, snapshot.plan.baseline.lr_max)]
    if stage.best is not None and stage.best.point is not None:
        always.append(stage.best.point)
    shown = dict.fromkeys(point for point in (*always, *spread(known)) if point in known)
    return [*shown][:MOST_CANDIDATES]


def thinned(
    trial: Trial, kept: Mapping[str, Sequence[float]], reported: Mapping[int, float]
) -> RunCurve:
    """A run's curves at a bounded number of its epochs, the last of them included.

    Args:
        trial: The trial whose curves they are.
        kept: Its complete curves by name, of a trial that has ended.
        reported: Its averaged metric by epoch, of a trial without complete curves.
    """
    averaged = kept.get("averaged_error") or [
        reported.get(epoch, math.nan) for epoch in range(1, max(reported, default=0) + 1)
    ]
    at = shown_points(len(averaged))
    columns: dict[str, Any] = {
        name: tuple(values[i] for i in at) if len(values) == len(averaged) else ()
        for name in ("validation_error", "training_loss")
        if (values := kept.get(name)) is not None
    }
    return RunCurve(
        k=trial.k if trial.k is not None else math.nan,
        seed=trial.key.seed,
        state=trial.state,
        epochs=tuple(i + 1 for i in at),
        averaged_error=tuple(averaged[i] for i in at),
        lr_max=trial.lr_max,
        whole=trial.request.point,
        **columns,
    )


def shown_points(count: int) -> list[int]:
    """Indices of the points to show out of ``count``: evenly spaced, and more dense at the end."""
    last = count - 1
    overall = _evenly(0, last, POINTS_OVERALL)
    return sorted({*overall, *_evenly(math.ceil((1 - END_SHARE) * last), last, POINTS_AT_END)})


def _evenly(first: int, last: int, most: int) -> list[int]:
    """At most ``most`` whole numbers from ``first`` to ``last``, evenly spaced."""
    if last - first < most:
        return list(range(first, last + 1))
    return [first + round(i * (last - first) / (most - 1)) for i in range(most)]
