"""A stage in the words and numbers of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdecay_search.report.curves import RunCurve
from kdecay_search.report.names import errors_by_seed, level, outcomes, terms
from kdecay_search.report.summary import by_point
from kdecay_search.report.text import rival_errors
from kdecay_search.search import BASELINE_KS, Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.statistics import Sample, paired_gain

MOST_ERRORS = 8
"""Errors by seed that a table row lists; of more seeds it tells how many there are."""


def title(stage: Stage) -> str:
    after = f", after {terms(stage.earlier_ks, stage.lr_max)}" if stage.earlier_ks else ""
    return f"Stage {stage.n}{after}"


def outcome(stage: Stage, snapshot: StudySnapshot) -> str:
    """What came of the stage, in one or two sentences."""
    complete = sum(len(c.errors) for c in stage.candidates)
    tried = sum(bool(c.errors) for c in stage.candidates)
    text = f"{_counted(complete, 'complete run')} of {_counted(tried, 'candidate')}. "
    best = stage.best
    if best is None or best.k is None:
        return text + ("It is running." if stage.progress == "running" else "It has no result.")
    name = f"k = {best.k:.4g}{level(best.lr_max) if stage.levels else ''}"
    if stage.progress == "running":
        text += f"It is running; so far the lowest is {name}."
    elif stage.kept:
        text += f"It keeps {name}."
    elif stage.n == 1 and best.k == BASELINE_KS[0]:
        text += f"The original, {name}, is the best."
    else:
        text += f"Its best, {name}, does not help by more than the stated gain of "
        text += f"{snapshot.spec.search.min_gain:g} points: no term is kept."
    if stage.at_edge:
        text += " That is the largest k that was tried: the best may lie beyond it."
    return text


def rows(stage: Stage, snapshot: StudySnapshot) -> list[dict[str, Any]]:
    """One row per candidate whose k is known, ascending; by level of the LR for each k."""
    rival, errors = rival_errors(stage, snapshot), errors_by_seed(stage)
    known = [c for c in stage.candidates if c.k is not None]
    return [
        {
            "k": f"{c.k:.4g}",
            "lr_max": "" if c.lr_max is None else f"{c.lr_max:.4g}",
            "errors": errors[c.index] if len(c.errors) <= MOST_ERRORS else f"{len(c.errors)} seeds",
            "mean": "" if c.error.mean is None else f"{c.error.mean:.2f}",
            "sd": "" if c.error.sd is None else f"{c.error.sd:.2f}",
            "gain": _gain(paired_gain(rival, c.errors)),
            "probability": "" if c.probability is None else f"{c.probability:.0%}",
            "notes": ", ".join(outcomes(c)),
            "is_best": stage.best is not None and c.index == stage.best.index,
        }
        for c in sorted(known, key=by_point)
    ]


def _gain(gain: Sample) -> str:
    return "" if gain.mean is None or gain.mean == 0 else f"{gain.mean:+.2f}".replace("-", "−")


def shown_runs(curves: Sequence[RunCurve], stage: Stage) -> str:
    """Which runs the curves show, if not all."""
    shown = {(curve.k, curve.lr_max) for curve in curves}
    tried = sum(bool(c.errors or c.pruned > c.skipped) for c in stage.candidates)
    if not curves or len(shown) >= tried:
        return ""
    return f"{len(shown)} of {tried} candidates are shown, evenly chosen."


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count != 1 else ''}"
