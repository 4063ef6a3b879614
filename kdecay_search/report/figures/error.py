"""The metric against k, of one stage (the paper's Figure 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import quantiles

import plotly.graph_objects as go

from kdecay_search.report import metrics, names
from kdecay_search.report.figures import theme
from kdecay_search.report.figures.palette import FAINT, INK, Palette, evenly
from kdecay_search.report.figures.whole import error_by_lateness
from kdecay_search.report.names import counted
from kdecay_search.report.reference import Reference
from kdecay_search.search import CandidateResult, Progress, Stage
from kdecay_search.search.surrogate import SmoothCurve, smooth_curve
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import Candidate, level_name, schedule_name
from kdecay_search.study.metric import MetricFormat

Colour = Callable[[CandidateResult], str]

CURVE_POINTS = 60
"""Points of the smooth curve between the candidates' own."""
MOST_CURVE_POINTS = 160
"""Number of candidates above which the curve has an even choice of them and no further points."""
TICKS_AT_CANDIDATES = 12
"""Most candidates that each have a tick of the axis."""
LABEL_TURNS = 0.6
"""Share of the axis beyond which the label of the choice stands to its left."""
LOG_FROM = 20.0
"""Ratio of the largest to the smallest k above which the axis is logarithmic."""
OUTLIER_SHARE = 4.0
"""Runs that are worse than the best three quarters by more than this multiple of their range are
drawn at the edge, as are those that diverged: they must not flatten all others."""

DIVERGED_ABOVE = 0.08
"""Distance of the runs that diverged from the worst one that is drawn, as a share of the range."""


def error_by_k(snapshot: StudySnapshot, stage: Stage) -> go.Figure:
    """Every run's value, the means, the smooth curve with its 95 % interval, and the choice.

    If the stage tries several levels of the learning rate, the smooth surface is cut at each. Whole
    schedules are placed by their lateness, without a curve: it is a surface over all parameters.
    """
    tried = sorted((c for c in stage.candidates if c.errors), key=lambda c: c.k or 0.0)
    if not tried:
        outcome = "has diverged" if any(c.diverged for c in stage.candidates) else "is complete yet"
        which = "Every run" if outcome == "has diverged" else "No run"
        return theme.empty(f"{which} of stage {stage.n} {outcome}.")
    form = snapshot.plan.format
    shown = theme.figure(f"k<sub>{stage.n}</sub>", form.metric.label)
    edge = _edge([error for c in tried for error in c.errors.values()], form)
    if snapshot.is_joint:
        return error_by_lateness(snapshot, stage, edge)
    colour = _colouring(snapshot, stage)
    _add_curves(shown, snapshot, stage, edge)
    _add_reference(shown, snapshot, stage)
    _add_seeds(shown, tried, colour, edge, form)
    _add_diverged(shown, snapshot, stage, colour, edge)
    _add_means(shown, tried, colour, edge, form)
    ks = [c.k or 0.0 for c in stage.candidates if c.errors or c.diverged]
    _set_axes(shown, ks, stage)
    _mark_choice(shown, stage, colour, ks)
    return shown


def _colouring(snapshot: StudySnapshot, stage: Stage) -> Colour:
    """Colours by level if the stage tries several, else by k as in all figures."""
    if stage.levels:
        colours = dict(zip(stage.levels, evenly(len(stage.levels)), strict=True))
        return lambda candidate: colours[candidate.lr_max or stage.levels[0]]
    palette = Palette.of(snapshot)
    return lambda candidate: palette(candidate.k or 0.0, candidate.lr_max)


def _add_curves(shown: go.Figure, snapshot: StudySnapshot, stage: Stage, edge: float) -> None:
    form = snapshot.plan.format
    for lr_max, colour in zip(stage.levels, evenly(len(stage.levels)), strict=True):
        _add_cut(shown, stage_curve(snapshot, stage, lr_max), lr_max, colour, edge, form)
    if not stage.levels and len((curve := stage_curve(snapshot, stage)).ks) > 1:
        _add_curve(shown, curve, form)


def stage_curve(snapshot: StudySnapshot, stage: Stage, lr_max: float | None = None) -> SmoothCurve:
    """The smooth curve by which the best candidate of a stage is chosen.

    As in that choice, the reference of a later stage counts as results of the term that was kept
    last.

    Args:
        snapshot: The study.
        stage: The stage, which has a result.
        lr_max: The level of the learning rate that the curve is for, if the stage tries several.
    """
    results = [(c.point, s, e) for c in stage.candidates if c.point for s, e in c.errors.items()]
    level = stage.lr_max if lr_max is None else lr_max
    if stage.earlier_ks:
        at = Candidate(stage.earlier_ks[-1], level)
        results += [(at, s, e) for s, e in Reference.of(stage, snapshot).errors.items()]
    tried = sorted({point.k for point, _, _ in results if point.k is not None})
    if len(tried) > MOST_CURVE_POINTS:
        step = (len(tried) - 1) / (MOST_CURVE_POINTS - 1)
        ks = [tried[round(i * step)] for i in range(MOST_CURVE_POINTS)]
    else:
        low, high = math.log(tried[0]), math.log(tried[-1])
        between = [math.exp(low + (high - low) * i / CURVE_POINTS) for i in range(1, CURVE_POINTS)]
        ks = [*tried, *(between if high > low else ())]
    return smooth_curve((Candidate(k, level) for k in ks), results)


def _edge(errors: Sequence[float], form: MetricFormat) -> float:
    """The largest error that is drawn at its own height."""
    if len(errors) < 4:  # noqa: PLR2004 - no quarters
        return max(errors)
    upper, lowest = quantiles(errors, n=4)[2], min(errors)
    limit = upper + OUTLIER_SHARE * max(upper - lowest, metrics.step(form))
    return max(error for error in errors if error <= limit)


def _add_curve(shown: go.Figure, curve: SmoothCurve, form: MetricFormat) -> None:
    value = form.metric.value
    shown.add_scatter(
        x=[*curve.ks, *reversed(curve.ks)],
        y=[*map(value, curve.high), *map(value, reversed(curve.low))],
        fill="toself",
        fillcolor=FAINT,
        line={"width": 0},
        mode="lines",
        name="95 % interval",
        hoverinfo="skip",
    )
    shown.add_scatter(
        x=curve.ks,
        y=list(map(value, curve.errors)),
        customdata=_intervals(curve, form),
        mode="lines",
        name="smooth curve",
        line={"color": INK, "width": 2},
        hovertemplate=f"smooth curve at k = %{{x:.3~g}}<br>{_of_curve(form)}",
    )


def _add_cut(
    shown: go.Figure,
    curve: SmoothCurve,
    lr_max: float,
    colour: str,
    edge: float,
    form: MetricFormat,
) -> None:
    """Add the smooth surface at one level, without what is worse than the runs that are drawn."""
    shown.add_scatter(
        x=curve.ks,
        y=[form.metric.value(error) if error <= edge else None for error in curve.errors],
        customdata=_intervals(curve, form),
        mode="lines",
        name=f"lr_max {lr_max:.4g}",
        line={"color": colour, "width": 2},
        hovertemplate=f"smooth curve at k = %{{x:.3~g}}, lr_max {lr_max:.4g}<br>{_of_curve(form)}",
    )


def _intervals(curve: SmoothCurve, form: MetricFormat) -> list[list[float]]:
    """The ends of the interval at each point of a curve, the lower value first."""
    ends = zip(curve.low, curve.high, strict=True)
    return [sorted(map(form.metric.value, each)) for each in ends]


def _of_curve(form: MetricFormat) -> str:
    """What the hover text of a curve says of a point: its value and the interval."""
    digits, unit = f".{form.decimals}f", form.unit
    return (
        f"{metrics.word(form.metric)} %{{y:{digits}}}{unit}<br>95 % interval "
        f"%{{customdata[0]:{digits}}} to %{{customdata[1]:{digits}}}{unit}<extra></extra>"
    )


def _add_reference(shown: go.Figure, snapshot: StudySnapshot, stage: Stage) -> None:
    """Add what a later stage's candidates are compared with, as a line across."""
    reference, form = Reference.of(stage, snapshot), snapshot.plan.format
    error = reference.error
    if not stage.earlier_ks or error.mean is None:
        return
    name = f"{reference.name} alone"
    at = [c.k for c in stage.candidates if c.k is not None]
    shown.add_scatter(
        x=[stage.earlier_ks[-1], max(at)],
        y=[form.metric.value(error.mean)] * 2,
        mode="lines",
        name=name,
        line={"color": INK, "width": 1.5, "dash": "dash"},
        hovertemplate=f"{name}<br>mean {metrics.word(form.metric)} %{{y:.{form.decimals}f}}"
        f"{form.unit} over {counted(error.n, 'seed')}<extra></extra>",
    )


def _add_seeds(
    shown: go.Figure,
    tried: Sequence[CandidateResult],
    colour: Colour,
    edge: float,
    form: MetricFormat,
) -> None:
    runs = [(c, seed, c.errors[seed]) for c in tried for seed in sorted(c.errors)]
    has_levels = any(c.lr_max is not None for c in tried)
    outlying = "triangle-up" if form.metric.direction == "min" else "triangle-down"
    shown.add_scatter(
        x=[c.k for c, _, _ in runs],
        y=[form.metric.value(min(error, edge)) for _, _, error in runs],
        customdata=[(seed, form.metric.value(error)) for _, seed, error in runs],
        text=[level_name(c.lr_max) for c, _, _ in runs] if has_levels else None,
        mode="markers",
        name="each seed",
        marker={
            "color": [colour(c) for c, _, _ in runs],
            "symbol": [outlying if error > edge else "circle" for _, _, error in runs],
            "size": 7,
            "opacity": 0.5,
        },
        hovertemplate=f"k = %{{x:.4~g}}{'%{text}' if has_levels else ''} · seed %{{customdata[0]}}"
        f"<br>{metrics.word(form.metric)} %{{customdata[1]:.{form.decimals}f}}{form.unit}"
        "<extra></extra>",
    )


def _add_diverged(
    shown: go.Figure, snapshot: StudySnapshot, stage: Stage, colour: Colour, edge: float
) -> None:
    """Add a cross beyond the edge for every run that diverged: it has no value of its own."""
    form = snapshot.plan.format
    lowest = min(error for c in stage.candidates for error in c.errors.values())
    height = form.metric.value(edge + DIVERGED_ABOVE * max(edge - lowest, metrics.step(form)))
    seeds = names.diverged_seeds(snapshot, stage)
    runs = [(c, seed) for c in stage.candidates for seed in seeds.get(c.index, ())]
    if not runs:
        return
    shown.add_scatter(
        x=[c.k for c, _ in runs],
        y=[height] * len(runs),
        text=[f"k = {c.k:.4g}{level_name(c.lr_max)} · seed {seed}" for c, seed in runs],
        mode="markers",
        name="diverged",
        marker={"color": [colour(c) for c, _ in runs], "symbol": "x", "size": 9},
        hovertemplate="%{text}<br>diverged<extra></extra>",
    )


def _add_means(
    shown: go.Figure,
    tried: Sequence[CandidateResult],
    colour: Colour,
    edge: float,
    form: MetricFormat,
) -> None:
    shown.add_scatter(
        x=[c.k for c in tried],
        y=[form.metric.value(min(c.error.mean or 0.0, edge)) for c in tried],
        text=[_described(c, form) for c in tried],
        mode="markers",
        name="mean",
        marker={
            "color": [colour(c) for c in tried],
            "symbol": "diamond",
            "size": 11,
            "line": {"width": 0.8, "color": "rgba(255,255,255,0.85)"},
        },
        hovertemplate="k = %{x:.4~g}<br>%{text}<extra></extra>",
    )


def _described(candidate: CandidateResult, form: MetricFormat) -> str:
    error = candidate.error
    lines = [] if candidate.lr_max is None else [f"lr_max {candidate.lr_max:.4g}"]
    seeds = counted(error.n, "seed")
    lines.append(f"mean {metrics.word(form.metric)} {form.sample(error)}, {seeds}")
    if interval := error.interval():
        low, high = sorted(interval, key=form.metric.value)
        text = f"{form.number(low)} to {form.value(high)}"
        lines.append(f"95 % interval of the mean {text}")
    if candidate.diverged:
        lines.append(f"{counted(candidate.diverged, 'run')} diverged")
    if candidate.probability is not None:
        lines.append(f"probability to be the best {candidate.probability:.0%}")
    return "<br>".join(lines)


def _mark_choice(shown: go.Figure, stage: Stage, colour: Colour, ks: Sequence[float]) -> None:
    """Add a line at the best k, which says what came of it."""
    best = stage.best
    if best is None or best.k is None:
        return
    if stage.progress == Progress.RUNNING:
        word = "best so far"
    else:
        word = "chosen" if stage.kept or stage.n == 1 else "best, not kept"
    level = best.lr_max if stage.levels else None
    is_right = best.k - min(ks) > LABEL_TURNS * (max(ks) - min(ks))
    shown.add_shape(
        type="line",
        x0=best.k,
        x1=best.k,
        y0=0,
        y1=1,
        yref="y domain",
        layer="below",
        line={"color": colour(best), "width": 1.5, "dash": "dot"},
    )
    shown.add_annotation(
        x=math.log10(best.k) if _is_log(ks) else best.k,
        y=1,
        yref="y domain",
        yanchor="top",
        xanchor="right" if is_right else "left",
        xshift=-7 if is_right else 7,
        text=f"<b>{schedule_name((best.k,), level)}</b> {word}",
        showarrow=False,
    )


def _is_log(ks: Sequence[float]) -> bool:
    return max(ks) / min(ks) > LOG_FROM


def _set_axes(shown: go.Figure, ks: Sequence[float], stage: Stage) -> None:
    if _is_log(ks):
        shown.update_xaxes(type="log")
    elif len(ks) <= TICKS_AT_CANDIDATES:
        ticks = sorted({*ks, *stage.earlier_ks[-1:]})
        shown.update_xaxes(tickvals=ticks, ticktext=[f"{k:.4g}" for k in ticks])
