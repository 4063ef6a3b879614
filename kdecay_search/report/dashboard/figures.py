"""The figures of a stage as the dashboard keeps them: small."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go

from kdecay_search.report import figures, metrics
from kdecay_search.report.curves import Curves, RunCurve, read_curves
from kdecay_search.report.figures.whole import LATENESS
from kdecay_search.search import FIRST_SEED, Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage import Storage
from kdecay_search.study.trials import CONFIRMATION

MOST_POINTS = 60
"""Most points of a curve."""
HEIGHT = 440
"""Height of a figure in pixels: what a card of the dashboard has."""
LEGEND = {"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1.0, "yanchor": "top"}
"""Beside the plot: the place above it is the title's."""
LEGEND_BELOW = {"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top"}
"""Below the plot, where the place beside it is taken."""
DIGITS = 5
"""Significant digits of a number, at least."""


def stage_figures(storage: Storage, snapshot: StudySnapshot) -> dict[int, dict[str, go.Figure]]:
    """Figures by stage and id. Of the curves, only those on the first seed are drawn."""
    read = read_curves(storage, snapshot)
    curves = Curves({n: [*_thinned(runs)] for n, runs in read.by_stage.items()})
    digits = max(DIGITS, metrics.significant_digits(snapshot))
    schedules = _card(
        figures.schedules(snapshot), "The schedule found, and what it is compared with", digits
    )
    metric, drawn = snapshot.spec.task.metric, {}
    unit, begins = snapshot.spec.task.length.unit, metrics.capitalised(metric.name)
    for stage in snapshot.plan.stages:
        k = f"k{stage.n}"
        if snapshot.is_joint and stage.n == 1:
            k = LATENESS
        drawn[stage.n] = {
            **_plane(snapshot, stage, digits),
            "error-by-k": _card(
                figures.error_by_k(snapshot, stage), f"{begins} against {k}", digits
            ),
            "schedules": schedules,
            "validation-error": _card(
                figures.validation_error(snapshot, curves, stage),
                f"{begins} by {unit}, first seed",
                digits,
            ),
            "training-loss": _card(
                figures.training_loss(snapshot, curves, stage),
                f"Training loss by {unit}, first seed",
                digits,
            ),
        }
    if snapshot.plan.confirmation is not None:
        test = metrics.capitalised(metrics.test_name(metric))
        title = f"{test}: found schedule against others"
        drawn[CONFIRMATION] = {"differences": _card(figures.differences(snapshot), title, digits)}
    return drawn


def _plane(snapshot: StudySnapshot, stage: Stage, digits: int) -> dict[str, go.Figure]:
    """The searched plane by its id; nothing where there is none."""
    shown = figures.plane(snapshot, stage) if snapshot.is_joint else None
    if shown is None:
        return {}
    title = f"The searched plane, by {snapshot.spec.task.metric.name}"
    return {"plane": _card(shown, title, digits, has_scale=True)}


def _thinned(runs: Iterable[RunCurve]) -> Iterable[RunCurve]:
    for run in runs:
        if run.seed == FIRST_SEED:
            count = len(run.epochs)
            step = max(1.0, (count - 1) / (MOST_POINTS - 1))
            at = sorted({min(count - 1, round(i * step)) for i in range(min(count, MOST_POINTS))})
            yield replace(
                run,
                epochs=tuple(run.epochs[i] for i in at),
                averaged_error=tuple(run.averaged_error[i] for i in at),
                validation_error=tuple(run.validation_error[i] for i in at if run.validation_error),
                training_loss=tuple(run.training_loss[i] for i in at if run.training_loss),
            )


def _card(figure: go.Figure, title: str, digits: int, has_scale: bool = False) -> go.Figure:
    """The figure for a card of the dashboard: titled, with its legend beside the plot, or below it
    where a scale of colours stands beside it."""
    shown = go.Figure(_rounded(json.loads(figure.to_json()), digits))
    shown.update_layout(
        title={"text": title, "x": 0.02, "xref": "container", "font": {"size": 16}},
        margin={"t": 48},
        height=HEIGHT,
        legend=LEGEND_BELOW if has_scale else LEGEND,
    )
    return shown


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, list):
        return [_rounded(item, digits) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item, digits) for key, item in value.items()}
    return value
