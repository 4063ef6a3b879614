"""A stage in the words and numbers of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdecay_search.report import metrics, names, whole
from kdecay_search.report.curves import RunCurve
from kdecay_search.report.names import counted, outcomes
from kdecay_search.report.reference import Reference
from kdecay_search.report.summary import by_point
from kdecay_search.search import BASELINE_KS, Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import candidate_name, level_name, schedule_name

MOST_ERRORS = 8
"""Most seeds whose errors a row lists; of more seeds it states the number."""


def title(stage: Stage) -> str:
    """A heading for the stage, such as ``Stage 2, after k = 2``."""
    name = schedule_name(stage.earlier_ks, stage.lr_max)
    if stage.base is not None and stage.earlier_ks:
        *earlier, k = stage.earlier_ks
        name = candidate_name(stage.base._replace(k=k), earlier)
    return f"Stage {stage.n}{f', after {name}' if stage.earlier_ks else ''}"


def outcome(stage: Stage, snapshot: StudySnapshot) -> str:
    """What came of the stage, in a few sentences."""
    complete = sum(len(c.errors) for c in stage.candidates)
    tried = sum(bool(c.errors) for c in stage.candidates)
    text = f"{counted(complete, 'complete run')} of {counted(tried, 'candidate')}. "
    best, form = stage.best, snapshot.plan.format
    if best is None or best.point is None:
        text += "It is running." if stage.progress == "running" else "It has no result."
        return f"{text} {names.divergence(stage)}".rstrip()
    if best.whole is not None:
        sentences = [text + _outcome_of_whole(stage, snapshot), *whole.edges(stage, snapshot.spec)]
        if stage.n == len(snapshot.plan.stages):
            sentences.append(whole.no_further_term(snapshot))
        return " ".join(filter(None, [*sentences, names.divergence(stage)]))
    name = f"k = {best.k:.4g}{level_name(best.lr_max) if stage.levels else ''}"
    if stage.progress == "running":
        text += f"It is running; so far the {form.metric.best} is {name}."
    elif stage.kept:
        text += f"It keeps {name}."
    elif stage.n == 1 and best.k == BASELINE_KS[0]:
        text += f"The original, {name}, is the best."
    else:
        text += f"Its best candidate, {name}, does not improve the {metrics.word(form.metric)} "
        text += f"by more than {_required(snapshot)}: no term is kept."
    if stage.at_edge:
        text += " That is the largest k that was tried: the best may lie beyond it."
    diverged = names.divergence(stage)
    return f"{text} {diverged}" if diverged else text


def _outcome_of_whole(stage: Stage, snapshot: StudySnapshot) -> str:
    best, form = stage.best, snapshot.plan.format
    assert best is not None
    assert best.point is not None
    name = candidate_name(best.point, stage.earlier_ks)
    if stage.progress == "running":
        return f"It is running; so far the {form.metric.best} is {name}."
    if stage.kept:
        return f"The best is {name}."
    if stage.n == 1:
        return f"Nothing is better than the original, {name}."
    return (
        f"Its best, {name}, does not improve the {metrics.word(form.metric)} by more than "
        f"{_required(snapshot)}: a further term is worth nothing."
    )


def table_of_whole(stage: Stage, snapshot: StudySnapshot) -> dict[str, Any]:
    """The table of a stage of a search of whole schedules, the best candidate first.

    Returns:
        Headings, and rows of cells; every cell is text.
    """
    form, ranked = snapshot.plan.format, whole.by_rank(stage)
    columns = whole.columns(ranked)
    errors = names.errors_by_seed(stage, form, names.diverged_seeds(snapshot, stage))
    rows = [
        {
            "cells": [
                str(rank),
                *(column.of(c.point) for column in columns if c.point is not None),
                "" if c.error.mean is None else form.number(c.error.mean),
                "" if c.error.sd is None else f"{c.error.sd:.{form.decimals}f}",
                names.best_chance(c),
            ],
            "errors": errors[c.index]
            if len(c.errors) + c.diverged <= MOST_ERRORS
            else f"{len(c.errors)} seeds",
            "notes": ", ".join(outcomes(c)),
            "is_best": stage.best is not None and c.index == stage.best.index,
        }
        for rank, c in enumerate(ranked, start=1)
    ]
    headings = ["", *(column.heading for column in columns), "mean", "sd", "P(best)"]
    return {"headings": headings, "rows": rows, "note": f"{whole.NOTE}."}


def tuned(stage: Stage, snapshot: StudySnapshot) -> dict[str, Any] | None:
    """The table of the usual schedules that a stage has tuned; None if it has tuned none."""
    if not stage.baselines:
        return None
    form, has_own = snapshot.plan.format, bool(snapshot.spec.search.space.own)
    return {
        "headings": whole.tuned_headings(form),
        "rows": whole.tuned_rows(stage, form),
        "what": "level, floor and parameters of your own" if has_own else "level and floor",
    }


def _required(snapshot: StudySnapshot) -> str:
    gain = snapshot.spec.search.min_gain
    if gain == "auto":
        return "one standard error of the difference"
    return f"the required gain of {gain:g}{snapshot.plan.format.difference_unit}"


def rows(stage: Stage, snapshot: StudySnapshot) -> list[dict[str, Any]]:
    """The table of a stage: one row for each candidate whose k is known, by k and level."""
    reference, form = Reference.of(stage, snapshot), snapshot.plan.format
    errors = names.errors_by_seed(stage, form, names.diverged_seeds(snapshot, stage))
    known = [c for c in stage.candidates if c.k is not None]
    return [
        {
            "k": f"{c.k:.4g}",
            "lr_max": "" if c.lr_max is None else f"{c.lr_max:.4g}",
            "errors": errors[c.index]
            if len(c.errors) + c.diverged <= MOST_ERRORS
            else f"{len(c.errors)} seeds",
            "mean": "" if c.error.mean is None else form.number(c.error.mean),
            "sd": "" if c.error.sd is None else f"{c.error.sd:.{form.decimals}f}",
            "gain": reference.gain(c, form),
            "probability": names.best_chance(c),
            "notes": ", ".join(outcomes(c)),
            "is_best": stage.best is not None and c.index == stage.best.index,
        }
        for c in sorted(known, key=by_point)
    ]


def shown_runs(curves: Sequence[RunCurve], stage: Stage) -> str:
    """How many candidates the curves show, in a sentence; empty if they show all."""
    shown = {curve.point for curve in curves}
    tried = sum(bool(c.errors or c.pruned > c.skipped) for c in stage.candidates)
    if not curves or len(shown) >= tried:
        return ""
    if any(point.is_whole for point in shown):
        best = "the best, the usual schedules as they were tuned, and the next best"
        return f"{len(shown)} of {tried} candidates are shown: {best}."
    return f"{len(shown)} of {tried} candidates are shown, evenly chosen."
