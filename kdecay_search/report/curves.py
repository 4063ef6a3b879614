"""The curves that a report shows: of a bounded number of runs, with a bounded number of points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdecay_search.search import BASELINE_KS, Stage, spread
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage import Storage
from kdecay_search.storage import curves as stored
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import State, Trial

MOST_CANDIDATES = 12
"""Of a stage; the best and the baseline are always among them."""
MOST_SEEDS = 5
"""Of each of them."""
POINTS_OVERALL = 100
"""Per curve, evenly spaced …"""
POINTS_AT_END = 40
"""… and as many again, at the most, over the last :data:`END_SHARE` of the training."""
END_SHARE = 0.25
NAMES = ("validation_error", "averaged_error", "training_loss")
_PREFERRED = (State.COMPLETE, State.PRUNED, State.RUNNING)


@dataclass(frozen=True)
class RunCurve:
    """One run's curves, one value for each of ``epochs``; NaN where a loss is not finite."""

    k: float
    seed: int
    state: State
    epochs: tuple[int, ...]
    """Epochs done at each point, increasing."""
    averaged_error: tuple[float, ...]
    """Percent."""
    validation_error: tuple[float, ...] = ()
    """Percent; none while the run is not over."""
    training_loss: tuple[float, ...] = ()
    """None while the run is not over."""
    lr_max: float | None = None
    """Where the level of the LR is searched."""


@dataclass(frozen=True)
class Curves:
    """The curves that are shown, by stage."""

    by_stage: Mapping[int, Sequence[RunCurve]]

    def of(self, stage: Stage) -> Sequence[RunCurve]:
        """In the order of the candidates, then seed."""
        return self.by_stage.get(stage.n, ())


def read_curves(storage: Storage, snapshot: StudySnapshot) -> Curves:
    """The curves of :func:`shown_trials` of every stage, and of no others."""
    chosen = {stage.n: shown_trials(snapshot, stage) for stage in snapshot.plan.stages}
    trials = [trial for group in chosen.values() for trial in group]
    kept = stored.read_kept(storage, (t.trial_id for t in trials if not t.open), NAMES)
    rest = [trial.trial_id for trial in trials if trial.trial_id not in kept]
    reported = stored.read_reported(storage, rest)
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
    """One trial per run, of a bounded number of candidates and seeds, by candidate and seed."""
    runs: dict[Candidate, dict[int, Trial]] = {}
    for trial in _trials_of(snapshot, stage):
        if trial.point is not None:
            seeds = runs.setdefault(trial.point, {})
            seeds[trial.key.seed] = min(seeds.get(trial.key.seed, trial), trial, key=_preference)
    baseline = Candidate(*BASELINE_KS, snapshot.plan.baseline.lr_max)
    return [
        runs[point][seed]
        for point in sorted(_shown(stage, baseline, runs))
        for seed in sorted(runs[point])[:MOST_SEEDS]
    ]


def _trials_of(snapshot: StudySnapshot, stage: Stage) -> Iterable[Trial]:
    return (
        trial
        for trial in snapshot.trials
        if trial.key.stage == stage.n
        and trial.request.earlier_ks == stage.earlier_ks
        and trial.epochs
        and trial.state in _PREFERRED
    )


def _preference(trial: Trial) -> int:
    return _PREFERRED.index(trial.state)


def _shown(stage: Stage, baseline: Candidate, points: Iterable[Candidate]) -> Sequence[Candidate]:
    known = set(points)
    best = [stage.best.point] if stage.best is not None and stage.best.point is not None else []
    always = [point for point in (baseline, *best) if point in known]
    others = [point for point in spread(known) if point not in always]
    return [*dict.fromkeys(always), *others][:MOST_CANDIDATES]


def thinned(
    trial: Trial, kept: Mapping[str, Sequence[float]], reported: Mapping[int, float]
) -> RunCurve:
    """The run at a bounded number of its epochs; the last is one of them."""
    averaged = kept.get("averaged_error") or [
        reported.get(epoch, math.nan) for epoch in range(1, max(reported, default=0) + 1)
    ]
    at = shown_points(len(averaged))
    columns = {
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
        **columns,
    )


def shown_points(count: int) -> list[int]:
    """Indices of the points to show out of ``count``: evenly spaced, and closer at the end."""
    last = count - 1
    overall = _evenly(0, last, POINTS_OVERALL)
    return sorted({*overall, *_evenly(math.ceil((1 - END_SHARE) * last), last, POINTS_AT_END)})


def _evenly(first: int, last: int, most: int) -> list[int]:
    if last - first < most:
        return list(range(first, last + 1))
    return [first + round(i * (last - first) / (most - 1)) for i in range(most)]
