"""A study as JSON: the contract of ``launch --json`` and ``status --json``.

Every number of the metric is a value as runs report it, in the unit under ``metric``: measured on
validation data or, under ``confirm``, on the test set. The keys ``error`` and ``errors`` are older
than metrics other than an error, and hold such values too. Differences and gains are positive where
the found schedule is better, whichever direction of the metric is better. A run that diverged has
no value: ``diverged`` counts such runs beside the values of the others.
"""

from __future__ import annotations

from typing import Any

from kdecay_search.report import confirmed, names
from kdecay_search.search import CandidateResult, Stage
from kdecay_search.search.confirmation import Confirmation, Row
from kdecay_search.search.stage import TunedBaseline
from kdecay_search.snapshot import StudySnapshot, gain_of, level_of, overview, parameters_of
from kdecay_search.statistics import Comparison
from kdecay_search.study.candidate import Candidate, candidate_name
from kdecay_search.study.metric import Metric
from kdecay_search.study.trials import Trial


def summarise(snapshot: StudySnapshot) -> dict[str, Any]:
    """The study as JSON-serialisable values."""
    plan = snapshot.plan
    tuned = [baseline for stage in plan.stages for baseline in stage.baselines]
    metric = snapshot.spec.task.metric
    baselines = {"baselines": [_tuned(baseline, metric) for baseline in tuned]}
    return {
        **overview(snapshot),
        **(baselines if snapshot.is_joint else {}),
        "stages": [_stage(stage, snapshot) for stage in plan.stages],
        "confirm": _confirm(snapshot),
        "failures": [
            {**run_of(trial), "reason": trial.reason, "message": trial.message}
            for trial in snapshot.given_up
        ],
        "failing_places": [
            {
                "name": place.name,
                "failures": len(place.failures),
                "reason": place.failures[-1].reason,
                "message": place.failures[-1].message,
            }
            for place in snapshot.failing_places
        ],
    }


def run_of(trial: Trial) -> dict[str, Any]:
    """Which run a trial is an attempt at."""
    key = trial.key
    run: dict[str, Any] = {"stage": key.stage, "k": trial.k, "seed": key.seed}
    if trial.request.comparator:
        run = {"stage": "confirm", "schedule": trial.request.comparator, "seed": key.seed}
    point = trial.request.point
    return run | level_of(trial.lr_max) | (parameters_of(point) if point else {})


def _confirm(snapshot: StudySnapshot) -> dict[str, Any] | None:
    """The confirmation; its verdict is None until all runs have ended.

    ``difference`` states by how much the found schedule is better than the original on the test
    set; in a row, than the row's schedule.
    """
    confirmation, verdict = snapshot.plan.confirmation, snapshot.confirmed
    metric = snapshot.spec.task.metric
    if confirmation is None or verdict is None:
        return None
    return {
        "state": "done" if confirmation.is_over else "running",
        "ks": list(confirmation.ks),
        "seeds": list(confirmation.seeds),
        **_comparison(confirmation.comparison),
        "verdict": str(verdict.outcome) if confirmation.is_over else None,
        "sentence": verdict.sentence,
        "rows": [_row(row, confirmation, metric) for row in confirmation.rows],
    }


def _row(row: Row, confirmation: Confirmation, metric: Metric) -> dict[str, Any]:
    against = confirmed.against(row, confirmation)
    return {
        "schedule": row.comparator,
        **({"name": row.name} if row.name else {}),
        **level_of(row.lr_max),
        "errors": [metric.value(row.errors[seed]) for seed in sorted(row.errors)],
        "seeds": sorted(row.errors),
        "mean": None if row.error.mean is None else metric.value(row.error.mean),
        "sd": row.error.sd,
        "diverged": row.diverged,
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


def _stage(stage: Stage, snapshot: StudySnapshot) -> dict[str, Any]:
    last, smooth = stage is snapshot.plan.stages[-1], stage.smooth_gain
    return {
        "n": stage.n,
        "state": snapshot.state if last else str(stage.progress),
        "earlier_ks": list(stage.earlier_ks),
        "k": stage.best.k if stage.best else None,
        **level_of(stage.best.lr_max if stage.best else None),
        "kept": stage.kept,
        "gain": gain_of(stage.gain),
        "better": smooth.probability if smooth else None,
        "smooth_gain": (
            {"mean": smooth.mean, "interval95": list(smooth.interval)} if smooth else None
        ),
        "at_edge": stage.at_edge,
        **_of_whole_schedules(stage, snapshot),
        "candidates": [
            _candidate(candidate, snapshot.spec.task.metric)
            for candidate in sorted(stage.candidates, key=by_point)
        ],
    }


def _of_whole_schedules(stage: Stage, snapshot: StudySnapshot) -> dict[str, Any]:
    """What only a search of whole schedules has."""
    if not snapshot.is_joint:
        return {}
    best, found = stage.best, {}
    if best is not None and best.point is not None:
        name = candidate_name(best.point, stage.earlier_ks)
        found = {"best": {"name": name, **parameters_of(best.point)}}
    return {
        **found,
        "edges": list(stage.edges),
    }


def _tuned(baseline: TunedBaseline, metric: Metric) -> dict[str, Any]:
    point, mean, gain = baseline.best.point, baseline.best.error.mean, baseline.gain
    return {
        "name": baseline.name,
        "schedule": None
        if point is None
        else {"name": candidate_name(point), **parameters_of(point)},
        "candidates": baseline.candidates,
        "runs": baseline.runs,
        "mean": None if mean is None else metric.value(mean),
        "gain": None if gain is None else gain.mean,
        "interval95": None if gain is None else list(gain.interval),
    }


def by_point(candidate: CandidateResult) -> tuple[bool, float, float, int]:
    """Sort key of candidates: by k, then by level; those whose k is not known yet come last."""
    known = candidate.point or Candidate(0.0)
    return candidate.point is None, known.k or 0.0, known.lr_max or 0.0, candidate.index


def _candidate(candidate: CandidateResult, metric: Metric) -> dict[str, Any]:
    return {
        "k": candidate.k,
        **level_of(candidate.lr_max),
        **(parameters_of(candidate.whole) if candidate.whole else {}),
        "errors": [metric.value(candidate.errors[seed]) for seed in sorted(candidate.errors)],
        "seeds": sorted(candidate.errors),
        "mean": None if candidate.error.mean is None else metric.value(candidate.error.mean),
        "probability": candidate.probability,
        "forecast": names.is_forecast(candidate),
        "diverged": candidate.diverged,
        "pruned": candidate.pruned,
        "skipped": candidate.skipped,
        "failed": candidate.failed,
    }
