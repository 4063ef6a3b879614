"""A study as JSON: the contract of ``launch --json`` and ``status --json``.

Errors in percent, on validation data but for ``confirm``, which has them on the test set;
differences in percentage points.
"""

from __future__ import annotations

from typing import Any

from kdecay_search.report import confirmed
from kdecay_search.search import CandidateResult, Incumbent, Stage
from kdecay_search.search.confirmation import Confirmation, Row
from kdecay_search.search.selection import Gain
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.statistics import Comparison, Sample, describe, paired_gain
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import State, Trial


def summarise(snapshot: StudySnapshot) -> dict[str, Any]:
    """The study as plain values that ``json.dumps`` takes."""
    plan, spec = snapshot.plan, snapshot.spec
    return {
        "study": spec.name,
        "state": snapshot.state,
        "schedule": {
            "family": spec.schedule.family,
            "ks": list(plan.leader.ks),
            "power": spec.schedule.power,
            "lr_max": snapshot.schedule.lr_max,
            "lr_min": spec.schedule.lr_min,
            "warmup_epochs": spec.schedule.warmup_epochs,
        },
        "error": _sample(describe(plan.leader.errors.values())),
        "baseline": {
            "ks": list(plan.baseline.ks),
            **_level(plan.baseline.lr_max),
            **_sample(_error(plan.baseline)),
        },
        "gain": _gain(gain_on_baseline(snapshot)),
        "stages": [_stage(stage, snapshot) for stage in plan.stages],
        "confirm": _confirm(plan.confirmation) if plan.confirmation else None,
        "failures": [_failure(trial) for trial in snapshot.given_up],
        "trials": {str(state): snapshot.count(state) for state in State},
        "epochs": {"trained": snapshot.epochs_trained, "planned": snapshot.epochs_planned},
    }


def _failure(trial: Trial) -> dict[str, Any]:
    """A run that was given up, with its last error."""
    return {**run_of(trial), "reason": trial.reason, "message": trial.message}


def run_of(trial: Trial) -> dict[str, Any]:
    """Which run it is an attempt at."""
    key = trial.key
    run: dict[str, Any] = {"stage": key.stage, "k": trial.k, "seed": key.seed}
    if trial.request.comparator:
        run = {"stage": "confirm", "schedule": trial.request.comparator, "seed": key.seed}
    return run | _level(trial.lr_max)


def _confirm(confirmation: Confirmation) -> dict[str, Any]:
    """``difference``: by how much the found schedule's test error is lower than the original's;
    a row's: than that row's. The verdict is given when all runs have ended."""
    compared = _comparison(confirmation.comparison)
    return {
        "state": "done" if confirmation.is_over else "running",
        "ks": list(confirmation.ks),
        "seeds": list(confirmation.seeds),
        **compared,
        "verdict": compared["verdict"] if confirmation.is_over else None,
        "rows": [_row(row, confirmation) for row in confirmation.rows],
    }


def _row(row: Row, confirmation: Confirmation) -> dict[str, Any]:
    against = confirmed.against(row, confirmation)
    return {
        "schedule": row.comparator,
        **_level(row.lr_max),
        "errors": [row.errors[seed] for seed in sorted(row.errors)],
        "seeds": sorted(row.errors),
        "mean": row.error.mean,
        "sd": row.error.sd,
        "failed": row.failed,
        "against": _comparison(against) if against else None,
    }


def _comparison(compared: Comparison) -> dict[str, Any]:
    return {
        "verdict": compared.verdict,
        "difference": compared.difference,
        "interval": list(compared.interval) if compared.interval else None,
        "n": compared.n,
        "bootstrap": list(compared.bootstrap) if compared.bootstrap else None,
        "p": compared.p,
        "p_wilcoxon": compared.p_wilcoxon,
        "p_adjusted": compared.p_adjusted,
        "detectable": compared.detectable,
    }


def gain_on_baseline(snapshot: StudySnapshot) -> Sample:
    """By how much the found schedule lowers the error of k = 1, paired by seed."""
    return paired_gain(snapshot.plan.baseline.errors, snapshot.plan.leader.errors)


def _error(incumbent: Incumbent) -> Sample:
    return describe(incumbent.errors.values())


def _sample(sample: Sample) -> dict[str, Any]:
    return {"mean": sample.mean, "sd": sample.sd, "n": sample.n}


def _gain(gain: Sample) -> dict[str, Any]:
    interval = gain.interval()
    return {**_sample(gain), "interval95": list(interval) if interval else None}


def _level(lr_max: float | None) -> dict[str, Any]:
    """Where the level of the LR was searched."""
    return {} if lr_max is None else {"lr_max": lr_max}


def _smooth(gain: Gain | None) -> dict[str, Any] | None:
    return {"mean": gain.mean, "interval95": list(gain.interval)} if gain else None


def _stage(stage: Stage, snapshot: StudySnapshot) -> dict[str, Any]:
    last = stage is snapshot.plan.stages[-1]
    return {
        "n": stage.n,
        "state": snapshot.state if last else str(stage.progress),
        "earlier_ks": list(stage.earlier_ks),
        "k": stage.best.k if stage.best else None,
        **_level(stage.best.lr_max if stage.best else None),
        "kept": stage.kept,
        "gain": _gain(stage.gain),
        "better": stage.smooth_gain.probability if stage.smooth_gain else None,
        "smooth_gain": _smooth(stage.smooth_gain),
        "at_edge": stage.at_edge,
        "candidates": [
            _candidate(candidate) for candidate in sorted(stage.candidates, key=by_point)
        ],
    }


def by_point(candidate: CandidateResult) -> tuple[bool, float, float, int]:
    """A key to sort candidates by: by k, then by level; last those whose k is not known yet."""
    known = candidate.point or Candidate(0.0)
    return candidate.point is None, known.k, known.lr_max or 0.0, candidate.index


def _candidate(candidate: CandidateResult) -> dict[str, Any]:
    return {
        "k": candidate.k,
        **_level(candidate.lr_max),
        "errors": [candidate.errors[seed] for seed in sorted(candidate.errors)],
        "seeds": sorted(candidate.errors),
        "mean": candidate.error.mean,
        "probability": candidate.probability,
        "pruned": candidate.pruned,
        "skipped": candidate.skipped,
        "failed": candidate.failed,
    }
