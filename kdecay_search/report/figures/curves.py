"""Curves by epoch or step: the metric (the paper's Figures 1 and 2) and the loss (Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from kdecay_search.report import metrics
from kdecay_search.report.curves import END_SHARE, Curves, RunCurve
from kdecay_search.report.figures import theme
from kdecay_search.report.figures.palette import INK, Palette
from kdecay_search.search import FIRST_SEED, Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import Candidate, candidate_name
from kdecay_search.study.metric import Metric, MetricFormat
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.study.trials import State

INSET_X = (0.42, 1.0)
"""Place of the inset from left to right, in shares of the figure."""
INSET_Y = {"min": (0.34, 1.0), "max": (0.1, 0.66)}
"""Place of the inset from bottom to top: the corner that is empty where values fall, or rise."""
ROOM = 0.06
"""Space above and below the curves in the inset, as a share of their range."""
SHOWN = 0.98
"""Share of its values that the inset shows: one bad epoch must not flatten the others."""
DIGITS = 10
"""Significant digits of a value."""
COVER = "cover"
"""Name of the shape behind the inset, which a page fills with its own background."""
EARLY, PAUSED, RUNNING = "x-thin-open", "square-open", "circle-open"
"""Marks at the end of a curve whose run ended early, because it diverged or was pruned, is paused,
or runs."""
KINDS = {"averaged_error": "averaged weights", "validation_error": "weights as they are"}
"""Which weights each kind of value is measured with."""


def validation_error(snapshot: StudySnapshot, curves: Curves, stage: Stage) -> go.Figure:
    """The metric by epoch or step of each run, with the end of the training enlarged in an inset.

    Every run has a curve of the averaged weights; those on the first seed also have one of the
    weights as they are.
    """
    runs = [run for run in curves.judged(snapshot, stage) if run.epochs]
    if not runs:
        done = theme.first_report(snapshot.spec.task.length)
        return theme.empty(f"No run of stage {stage.n} has {done} yet.")
    form, length = snapshot.plan.format, snapshot.spec.task.length
    shown = theme.over_training(length, form.metric.label, height=500)
    palette = Palette.of(snapshot)
    for kind, run in _drawn(runs):
        _add_values(shown, run, kind, palette, form, length)
    _add_legend(shown, runs, palette)
    _add_kinds(shown)
    _add_inset(shown, runs, palette, form, length)
    _cut_diverged(shown, runs, form.metric)
    return shown


def training_loss(snapshot: StudySnapshot, curves: Curves, stage: Stage) -> go.Figure:
    """Mean training loss of each run; the axis is logarithmic if all values are positive."""
    runs = [run for run in curves.judged(snapshot, stage) if run.training_loss]
    if not runs:
        return theme.empty(f"No run of stage {stage.n} has ended yet.")
    length = snapshot.spec.task.length
    shown = theme.over_training(length, "training loss")
    palette = Palette.of(snapshot)
    for run in sorted(runs, key=lambda run: -run.seed):
        line = {"color": palette.at(run.point), "width": 2.2 if run.seed == FIRST_SEED else 1}
        _add_run(shown, run, run.training_loss, line, "training loss %{y:.4~g}", length)
    _add_legend(shown, runs, palette)
    losses = [loss for run in runs for loss in run.training_loss if math.isfinite(loss)]
    if losses and min(losses) > 0:
        shown.update_yaxes(type="log", nticks=6)
    return shown


def _drawn(runs: Sequence[RunCurve]) -> list[tuple[str, RunCurve]]:
    """Kinds of value and runs in the order of drawing, so that the first seed lies on top.

    Only that seed, on which every candidate has run, has a curve of the weights as they are.
    """
    later_first = sorted(runs, key=lambda run: -run.seed)
    raw = [("validation_error", run) for run in later_first if run.seed == FIRST_SEED]
    return raw + [("averaged_error", run) for run in later_first]


def _add_values(
    shown: go.Figure,
    run: RunCurve,
    kind: str,
    palette: Palette,
    form: MetricFormat,
    length: TrainingLength,
    since: float = 0,
    **more: Any,
) -> None:
    values = getattr(run, kind)
    if values:
        value = f"{metrics.word(form.metric)} %{{y:.{form.decimals}f}}{form.unit}"
        label = f"{value}, {KINDS[kind]}"
        line = _line(kind, run.seed == FIRST_SEED, palette.at(run.point))
        _add_run(
            shown, run, values, line, label, length, since, ends=kind == "averaged_error", **more
        )


def _line(kind: str, first: bool, colour: str) -> dict[str, Any]:
    """Averaged weights are drawn in full and the others dotted; the first seed is wider."""
    if kind == "averaged_error":
        return {"color": colour, "width": 2.2 if first else 1}
    return {"color": colour, "width": 1.1, "dash": "dot"}


def _add_run(
    shown: go.Figure,
    run: RunCurve,
    values: Sequence[float],
    line: dict[str, Any],
    label: str,
    length: TrainingLength,
    since: float = 0,
    ends: bool = True,
    **more: Any,
) -> None:
    at = map(length.position, run.epochs)
    points = [(x, value) for x, value in zip(at, values, strict=True) if x >= since]
    while run.diverged and points and not math.isfinite(points[-1][1]):
        points.pop()  # so that the mark stands at the last value
    mark, ended = _end(run)
    mark = mark if ends else ""
    end = {
        "mode": "lines+markers",
        "marker": {
            "symbol": mark,
            "size": [0] * (len(points) - 1) + [8],
            "color": line["color"],
            "line": {"width": 2, "color": line["color"]},
        },
    }
    digits = ":," if length.counts_steps else ""
    about = f"{candidate_name(run.point)} · seed {run.seed}"
    shown.add_scatter(
        x=[x for x, _ in points],
        y=[float(f"{value:.{DIGITS}g}") for _, value in points],
        line=line,
        legendgroup=_group(run.point),
        showlegend=False,
        name=about,
        hovertemplate=f"{about}{ended}<br>{length.unit} %{{x{digits}}}<br>{label}<extra></extra>",
        **(end if mark and points else {"mode": "lines"}),
        **more,
    )


def _end(run: RunCurve) -> tuple[str, str]:
    """The mark at the end of a run's curve, and what its hover texts say of it; empty of a whole
    run."""
    if run.diverged:
        return EARLY, ", diverged"
    ends = {
        State.PRUNED: (EARLY, ", ended early"),
        State.PAUSED: (PAUSED, ", paused"),
        State.RUNNING: (RUNNING, ", running"),
    }
    return ends.get(run.state, ("", ""))


def _add_legend(shown: go.Figure, runs: Sequence[RunCurve], palette: Palette) -> None:
    """Add one entry for each candidate, which shows and hides all its runs."""
    for point in dict.fromkeys(run.point for run in runs):
        shown.add_scatter(
            x=[None],
            y=[None],
            mode="lines",
            name=candidate_name(point),
            legendgroup=_group(point),
            line={"color": palette.at(point), "width": 3},
            hoverinfo="skip",
        )
    theme.make_room(shown, {candidate_name(run.point) for run in runs if run.whole})


def _group(point: Candidate) -> str:
    if point.is_whole:
        return candidate_name(point)
    return f"{point.k:.4g}" if point.lr_max is None else f"{point.k:.4g} {point.lr_max:.4g}"


def _add_kinds(shown: go.Figure) -> None:
    """Add a second legend below the axis: its wide names would spread those of the exponents."""
    for kind, name in KINDS.items():
        line = _line(kind, True, INK)
        shown.add_scatter(
            x=[None],
            y=[None],
            mode="lines",
            name=name,
            line=line,
            hoverinfo="skip",
            legend="legend2",
        )
    under = {"y": 0, "yref": "container", "yanchor": "bottom"}
    shown.update_layout(legend2=shown.layout.legend.to_plotly_json() | under, margin={"b": 84})


def _add_inset(
    shown: go.Figure,
    runs: Sequence[RunCurve],
    palette: Palette,
    form: MetricFormat,
    length: TrainingLength,
) -> None:
    """Enlarge the last :data:`END_SHARE` of the training, if a run has come so far."""
    begin = (1 - END_SHARE) * length.total
    whole = [run for run in runs if length.position(run.epochs[-1]) > begin]
    if not whole:
        return
    place = {"xaxis": "x2", "yaxis": "y2"}
    for kind, run in _drawn(whole):
        _add_values(shown, run, kind, palette, form, length, since=begin, **place)
    errors = sorted(
        form.metric.error(value)
        for kind, run in _drawn([run for run in whole if not run.diverged])
        for report, value in zip(run.epochs, getattr(run, kind) or run.averaged_error, strict=True)
        if length.position(report) >= begin and math.isfinite(value)
    )
    domain = INSET_Y[form.metric.direction]
    inside = {"title": None, "tickfont": {"size": 11}, "nticks": 5}
    whole_numbers = {"tickformat": theme.tick_format(length)}
    x2 = (
        theme.axis("", domain=INSET_X, anchor="y2", range=[begin, length.total])
        | inside
        | whole_numbers
    )
    # The shape hides the figure's horizontal lines behind the inset, but not the upright ones.
    shown.update_xaxes(showgrid=False)
    shown.add_shape(
        name=COVER,
        type="rect",
        xref="x2 domain",
        yref="y2 domain",
        x0=-0.09,
        x1=1.02,
        y0=-0.12,
        y1=1.02,
        layer="below",
        fillcolor=theme.CLEAR,
        line={"width": 0},
    )
    shown.update_layout(xaxis2=x2, yaxis2=theme.axis("", domain=domain, anchor="x2") | inside)
    if errors:
        ends = errors[0], errors[int(SHOWN * (len(errors) - 1))]
        low, high = sorted(map(form.metric.value, ends))
        room = ROOM * max(high - low, 10 * metrics.step(form))
        shown.update_layout(yaxis2={"range": [low - room, high + room]})


def _cut_diverged(shown: go.Figure, runs: Sequence[RunCurve], metric: Metric) -> None:
    """Limit the axis to the values of the runs that did not diverge: others reach any number."""
    sound: list[float] = []
    cut: list[float] = []
    for run in runs:
        values = [*run.averaged_error, *run.validation_error]
        finite = [value for value in values if math.isfinite(value)]
        (cut if run.diverged else sound).extend(finite)
    if not sound or not cut:
        return
    low, high = min(sound), max(sound)
    room = ROOM * (high - low)
    if metric.direction == "min" and max(cut) > high:
        shown.update_layout(yaxis={"range": [min(low, *cut) - room, high + room]})
    elif metric.direction == "max" and min(cut) < low:
        shown.update_layout(yaxis={"range": [low - room, max(high, *cut) + room]})
