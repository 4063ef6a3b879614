"""A study as JSON: the contract of ``launch --json`` and ``status --json``.

Errors in percent, on validation data; differences in percentage points.
"""

from __future__ import annotations

from typing import Any

from kdecay_search.choice import Gain
from kdecay_search.procedure import Candidate, Incumbent, Stage
from kdecay_search.report.view import StudyView
from kdecay_search.runs import State, Trial
from kdecay_search.statistics import Sample, describe, paired_gain


def summarise(view: StudyView) -> dict[str, Any]:
    """The study as plain values that ``json.dumps`` takes."""
    plan, spec = view.plan, view.spec
    return {
        "study": spec.name,
        "state": view.state,
        "schedule": {
            "family": spec.schedule.family,
            "ks": list(plan.leader.ks),
            "power": spec.schedule.power,
            "lr_max": spec.schedule.lr_max,
            "lr_min": spec.schedule.lr_min,
            "warmup_epochs": spec.schedule.warmup_epochs,
        },
        "error": _sample(describe(plan.leader.errors.values())),
        "baseline": {"ks": list(plan.baseline.ks), **_sample(_error(plan.baseline))},
        "gain": _gain(gain_on_baseline(view)),
        "stages": [_stage(stage, view) for stage in plan.stages],
        "failures": [_failure(trial) for trial in view.given_up],
        "trials": {str(state): view.count(state) for state in State},
        "epochs": {"trained": view.epochs_trained, "planned": view.epochs_planned},
    }


def _failure(trial: Trial) -> dict[str, Any]:
    """A run that was given up, with its last error."""
    key = trial.key
    run = {"stage": key.stage, "k": trial.k, "seed": key.seed}
    return {**run, "reason": trial.reason, "message": trial.message}


def gain_on_baseline(view: StudyView) -> Sample:
    """By how much the found schedule lowers the error of k = 1, paired by seed."""
    return paired_gain(view.plan.baseline.errors, view.plan.leader.errors)


def _error(incumbent: Incumbent) -> Sample:
    return describe(incumbent.errors.values())


def _sample(sample: Sample) -> dict[str, Any]:
    return {"mean": sample.mean, "sd": sample.sd, "n": sample.n}


def _gain(gain: Sample) -> dict[str, Any]:
    interval = gain.interval()
    return {**_sample(gain), "interval95": list(interval) if interval else None}


def _smooth(gain: Gain | None) -> dict[str, Any] | None:
    return {"mean": gain.mean, "interval95": list(gain.interval)} if gain else None


def _stage(stage: Stage, view: StudyView) -> dict[str, Any]:
    last = stage is view.plan.stages[-1]
    return {
        "n": stage.n,
        "state": view.state if last else str(stage.progress),
        "earlier_ks": list(stage.earlier_ks),
        "k": stage.best.k if stage.best else None,
        "kept": stage.kept,
        "gain": _gain(stage.gain),
        "better": stage.smooth_gain.probability if stage.smooth_gain else None,
        "smooth_gain": _smooth(stage.smooth_gain),
        "at_edge": stage.at_edge,
        "candidates": [_candidate(candidate) for candidate in sorted(stage.candidates, key=_by_k)],
    }


def _by_k(candidate: Candidate) -> tuple[bool, float, int]:
    return (candidate.k is None, candidate.k or 0.0, candidate.index)


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "k": candidate.k,
        "errors": [candidate.errors[seed] for seed in sorted(candidate.errors)],
        "seeds": sorted(candidate.errors),
        "mean": candidate.error.mean,
        "probability": candidate.probability,
        "pruned": candidate.pruned,
        "skipped": candidate.skipped,
        "failed": candidate.failed,
    }
